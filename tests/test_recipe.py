"""The recipe: warm-up and fine-tuning of a planned training, and its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from graft.config.parameters import ModelConfig, SplitConfig
from graft.config.training import AugmentationConfig, FineTuneConfig, TrainingConfig, WarmUpConfig
from graft.data.manifest import scan
from graft.data.splits import Split, split_images
from graft.errors import TrainingError
from graft.models.weights import fingerprint_model
from graft.training.checkpoint import Checkpoint
from graft.training.history import EpochMetrics, Phase
from graft.training.plan import TrainingPlan, make_plan
from graft.training.recipe import evaluate_holdout, fine_tune, warm_up_head

MODEL = ModelConfig(architecture="mobilenet_v3_small", weights="letters")


@pytest.fixture(scope="module")
def split(digits: Path) -> Split:
    manifest = scan(digits)
    return split_images(manifest, {path: n for n, path in enumerate(manifest.table["path"])}, SplitConfig())


def silent(_: Phase, __: int, ___: EpochMetrics) -> None:
    pass


def make_training(strategy: Any, **fine_tune: Any) -> TrainingConfig:  # noqa: ANN401
    return TrainingConfig(
        strategy=strategy,
        batch_size=16,
        augmentation=AugmentationConfig(horizontal_flip=False),
        warm_up=WarmUpConfig(epochs=2, learning_rate=0.01),
        fine_tune=FineTuneConfig(epochs=2, learning_rate=1e-3, layer_decay=0.5, **fine_tune),
    )


def run(split: Split, training: TrainingConfig, seed: int) -> tuple[TrainingPlan, Checkpoint, Checkpoint]:
    """The plan, the checkpoint after warm-up, and the one after fine-tuning."""
    model, train_config = fingerprint_model(MODEL), training.train_config
    plan = make_plan(split, model, training, seed)
    warm = warm_up_head(
        split, model, train_config=train_config, warm_up=training.warm_up, seed=seed, on_epoch_end=silent
    )
    tuned = fine_tune(split, warm, train_config=train_config, plan=plan, seed=seed, on_epoch_end=silent)
    return plan, warm, tuned


def test_recipe_with_the_same_seed_gives_the_same_checkpoint_bit_for_bit(
    split: Split, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fingerprints = set()
    for global_seed in (1, 2):
        monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / str(global_seed)))
        torch.manual_seed(global_seed)
        _, _, tuned = run(split, make_training("last_stages", unfrozen_stages=3), seed=3)
        fingerprints.add(tuned.fingerprint)
    assert len(fingerprints) == 1


@pytest.mark.parametrize("strategy", ["auto", "head_only", "last_stages", "gradual"])
def test_recipe_learns_and_records_what_it_was_trained_on(split: Split, strategy: str) -> None:
    training = make_training(strategy)
    plan, warm, tuned = run(split, training, seed=0)
    predictions = evaluate_holdout(split, tuned, temperature=1.0, compute=training.compute)
    assert predictions.accuracy > 0.7
    assert (tuned is warm) == (not plan.recipe.unfreeze_epochs)
    assert not set(tuned.training_hashes) & set(split.records("holdout")["sha256"])
    assert set(tuned.training_hashes) == set(split.records("train")["sha256"])
    assert {"model", "train_config", "warm_up", "seed"} <= set(tuned.recipe)


def test_fine_tuning_that_diverges_is_abandoned_and_keeps_the_warm_model(split: Split) -> None:
    training = make_training("last_stages", unfrozen_stages=3)
    training = training.model_copy(
        update={"fine_tune": training.fine_tune.model_copy(update={"learning_rate": 1000.0})}
    )
    _, warm, tuned = run(split, training, seed=0)
    assert tuned.failure
    assert not warm.failure
    assert tuned.phase == "warmup"
    assert all(torch.equal(tuned.weights[name], value) for name, value in warm.weights.items())


def test_warm_up_that_diverges_is_an_error(split: Split) -> None:
    training = make_training("head_only")
    training = training.model_copy(update={"warm_up": WarmUpConfig(epochs=2, learning_rate=1000.0)})
    with pytest.raises(TrainingError):
        run(split, training, seed=0)
