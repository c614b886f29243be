"""Strategies: which stages are unfrozen, and when, as configured or chosen by the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graft.config.parameters import ModelConfig
from graft.config.training import FineTuneConfig, TrainingConfig, TrainLoopConfig
from graft.data.manifest import scan
from graft.features.loaders import DatasetInfo
from graft.models.backbones import build_model, preprocessing_for
from graft.training.strategy import configured_candidate, evenly_spaced_epochs, measure_similarity, propose_candidates

MODEL = ModelConfig(architecture="mobilenet_v3_small", weights="letters")


def configured_epochs(strategy: Any, **fine_tune: Any) -> tuple[int, ...]:  # noqa: ANN401
    config = TrainingConfig(strategy=strategy, fine_tune=FineTuneConfig(epochs=6, **fine_tune))
    return configured_candidate(config, 19).unfreeze_epochs


def proposed_stages(stages: int, images_per_class: int, similarity: float) -> list[int]:
    candidates, _ = propose_candidates(FineTuneConfig(), stages, images_per_class, similarity)
    return [len(candidate.unfreeze_epochs) for candidate in candidates]


def test_configured_strategy_is_followed() -> None:
    assert configured_epochs("head_only") == ()
    assert configured_epochs("full") == (0,) * 19
    assert configured_epochs("last_stages", unfrozen_stages=3) == (0, 0, 0)
    assert configured_epochs("last_stages") == (0, 0)
    assert configured_epochs("gradual", unfreeze_epochs=(0, 2, 5)) == (0, 2, 5)
    assert configured_epochs("gradual", unfrozen_stages=4) == (0, 1, 2, 3)


@given(st.integers(1, 60), st.integers(1, 40))
def test_gradual_unfreezing_is_spread_over_the_first_two_thirds_of_the_epochs(stages: int, epochs: int) -> None:
    unfreeze_epochs = evenly_spaced_epochs(stages, epochs)
    assert len(unfreeze_epochs) == stages
    assert unfreeze_epochs[0] == 0
    assert list(unfreeze_epochs) == sorted(unfreeze_epochs)
    assert unfreeze_epochs[-1] < max(1, epochs)
    assert len(set(unfreeze_epochs)) == min(stages, max(1, round(epochs * 2 / 3)))


@given(st.integers(1, 5000), st.floats(-1, 1), st.integers(2, 60))
def test_auto_never_unfreezes_less_for_more_images_or_a_farther_task(
    images: int, similarity: float, stages: int
) -> None:
    proposed = proposed_stages(stages, images, similarity)
    assert proposed == sorted(set(proposed))
    assert 1 <= proposed[0] <= proposed[-1] <= stages
    assert proposed_stages(stages, images + 500, similarity)[-1] >= proposed[-1]
    assert proposed_stages(stages, images, similarity - 0.4)[-1] >= proposed[-1]


def test_auto_proposes_some_of_the_stages_for_few_images_and_all_for_many_of_a_far_task() -> None:
    assert proposed_stages(19, 60, 0.95) == [5, 8]
    assert proposed_stages(19, 2000, 0.1) == [12, 19]
    (few, most), reason = propose_candidates(FineTuneConfig(), 19, 2000, 0.1)
    assert (few.name, few.strategy, most.name, most.strategy) == ("last_12_stages", "last_stages", "full", "full")
    assert reason.startswith("2000 images in the median class, and a task far from what the backbone was trained on")


def test_similarity_is_high_if_frozen_features_separate_the_classes(digits: Path) -> None:
    def measure(weights: str) -> float:
        model = ModelConfig(architecture="mobilenet_v3_small", weights=weights, crop_px=48, resize_px=48)
        table = scan(digits).table
        classes = sorted(table["label"].unique())
        dataset = DatasetInfo(digits, classes, preprocessing_for(model))
        return measure_similarity(build_model(model, len(classes), 0), dataset, table, TrainLoopConfig())

    letters, untrained = measure("letters"), measure("none")
    assert letters > 0.7
    assert untrained < letters


def test_similarity_is_1_for_two_hundred_separable_classes_of_few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(200).repeat_interleave(8)
    features = torch.nn.functional.one_hot(labels).float() + 0.01 * torch.rand(1600, 200)
    records = pd.DataFrame({"label": [str(int(label)) for label in labels], "sha256": [f"{n:05}" for n in range(1600)]})
    dataset = DatasetInfo(Path(), [str(n) for n in range(200)], preprocessing_for(MODEL))
    monkeypatch.setattr(
        "graft.training.strategy.extract_features", lambda _, sample: features[sample.index.to_numpy()].numpy()
    )
    assert measure_similarity(build_model(MODEL, 200, 0), dataset, records, TrainLoopConfig()) == 1.0
