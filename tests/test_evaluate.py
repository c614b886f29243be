"""Predictions of a model on labelled images."""

from __future__ import annotations

from pathlib import Path

import pytest
from few_digits import MODEL, few_digits

from graft.evaluation.evaluate import evaluate
from graft.models.backbones import build_model


def test_evaluate_depends_neither_on_batch_size_nor_on_train_mode(digits: Path) -> None:
    images, model = few_digits(digits, train=3, validation=20), build_model(MODEL, 10, seed=0)
    records = images.validation
    batched = evaluate(model.train(), images.dataset, records).logits
    for index in range(3):
        (logits,) = evaluate(model, images.dataset, records.iloc[[index]]).logits
        assert logits == pytest.approx(batched[index], abs=1e-4)
