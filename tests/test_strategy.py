"""What thaws is what was asked for, or what the table advises for so many images and such a task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graft.config import ModelConfig
from graft.data.manifest import scan
from graft.inputs.datasets import ImageSource
from graft.learning.strategy import ADVICE, choose, decide, measure_similarity, spread_out
from graft.networks.backbones import build, preprocessing
from graft.training_config import FineTuneConfig, LoopConfig, TrainingConfig

MODEL = ModelConfig(architecture="mobilenet_v3_small", weights="letters")


def asked(strategy: Any, **tune: Any) -> tuple[int, ...]:  # noqa: ANN401
    config = TrainingConfig(strategy=strategy, fine_tune=FineTuneConfig(epochs=6, **tune))
    return decide(config, 19, 100, None).thaw_epochs


def test_what_is_asked_for_is_done() -> None:
    assert asked("head_only") == ()
    assert asked("full") == (0,) * 19
    assert asked("last_stages", unfrozen_stages=3) == (0, 0, 0)
    assert asked("last_stages") == (0, 0)
    assert asked("gradual", thaw_epochs=(0, 2, 5)) == (0, 2, 5)
    assert asked("gradual", unfrozen_stages=4) == (0, 1, 2, 3)


@given(st.integers(1, 60), st.integers(1, 40))
def test_gradual_thawing_is_spread_over_the_first_two_thirds(stages: int, epochs: int) -> None:
    thaws = spread_out(stages, epochs)
    assert len(thaws) == stages
    assert thaws[0] == 0
    assert list(thaws) == sorted(thaws)
    assert thaws[-1] < max(1, epochs)
    assert len(set(thaws)) == min(stages, max(1, round(epochs * 2 / 3)))


@given(st.integers(1, 5000), st.floats(-1, 1), st.integers(2, 60))
def test_more_images_and_a_farther_task_never_thaw_less(images: int, similarity: float, stages: int) -> None:
    here = choose(stages, images, similarity)
    assert len(choose(stages, images + 500, similarity).thaw_epochs) >= len(here.thaw_epochs)
    assert len(choose(stages, images, similarity - 0.4).thaw_epochs) >= len(here.thaw_epochs)
    assert choose(stages, images, similarity - 0.4).rate_factor <= here.rate_factor <= 1
    assert str(images) in here.reason


def test_few_similar_images_train_the_head_alone_and_many_strange_ones_everything() -> None:
    assert choose(19, 60, 0.95).strategy == "head_only"
    assert choose(19, 5000, 0.1).strategy == "full"
    assert ADVICE[-1].images_per_class == 0


def test_similarity_is_high_where_frozen_features_tell_the_classes_apart(digits: Path) -> None:
    def measured(root: Path, weights: str) -> float:
        model = ModelConfig(architecture="mobilenet_v3_small", weights=weights, crop_px=48, resize_px=48)
        table = scan(root).table
        classes = sorted(table["label"].unique())
        source = ImageSource(root, classes, preprocessing(model))
        return measure_similarity(build(model, len(classes), 0), source, table, LoopConfig())

    letters, fresh = measured(digits, "letters"), measured(digits, "none")
    assert letters > 0.7
    assert fresh < letters


def test_many_classes_of_few_images_each_are_no_farther(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred classes, perfectly apart: every neighbour of an image is of its class."""
    labels = torch.arange(200).repeat_interleave(8)
    features = torch.nn.functional.one_hot(labels).float() + 0.01 * torch.rand(1600, 200)
    rows = pd.DataFrame(
        {"label": [str(int(label)) for label in labels], "sha256": [f"{n:05}" for n in range(1600)]}
    )
    source = ImageSource(Path(), [str(n) for n in range(200)], preprocessing(MODEL))
    monkeypatch.setattr(
        "graft.learning.strategy.head_features", lambda _, some: features[some.index.to_numpy()].numpy()
    )
    assert measure_similarity(build(MODEL, 200, 0), source, rows, LoopConfig()) == 1.0
