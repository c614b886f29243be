"""Only what should move moves, and the same seed gives the same weights."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from graft.backbones import build, pin, preprocessing, stage_of
from graft.config import FineTuneConfig, LoopConfig, ModelConfig, SplitConfig, WarmUpConfig
from graft.datasets import ImageSource
from graft.errors import TrainingError
from graft.freezing import freeze_all_but, frozen_fingerprint, prove_unmoved, train_mode
from graft.manifest import Manifest, scan
from graft.recipe import fine_tune, images_of, judge_holdout, warm_up
from graft.splits import Split, split_images
from graft.training import EpochMetrics, Images, Phase, evaluate, train
from graft.transforms import Preprocessing

MODEL = ModelConfig(architecture="mobilenet_v3_small", weights="letters")
LOOP = LoopConfig(horizontal_flip=False)
WARM = WarmUpConfig(epochs=2, learning_rate=0.01)
FINE = FineTuneConfig(epochs=2, unfrozen_stages=3, learning_rate=1e-3, stage_decay=0.5)


@pytest.fixture(scope="module")
def manifest(digits: Path) -> Manifest:
    return scan(digits)


@pytest.fixture(scope="module")
def split(manifest: Manifest) -> Split:
    return split_images(manifest, {path: n for n, path in enumerate(manifest.table["path"])}, SplitConfig())


@pytest.fixture(scope="module")
def images(manifest: Manifest, split: Split) -> Images:
    return images_of(manifest.folder(), split, preprocessing(MODEL))


def silent(_: Phase, __: int, ___: EpochMetrics) -> None:
    pass


def moved(before: nn.Module, after: nn.Module) -> set[str]:
    """The stages in which any weight or statistic differs."""
    old, new = before.state_dict(), after.state_dict()
    return {stage_of(name) for name in old if not torch.equal(old[name], new[name])}


def test_warm_up_moves_the_head_alone(images: Images) -> None:
    fresh = build(MODEL, 10, seed=0)
    trained = train(fresh, Phase.warm_up(WARM), LOOP, images, 0, silent)
    assert moved(fresh, trained.model) == {"head"}


def test_fine_tuning_moves_the_last_stages_and_no_batch_statistics(images: Images) -> None:
    fresh = build(MODEL, 10, seed=0)
    trained = train(fresh, Phase.fine_tune(FINE), LOOP, images, 0, silent)
    assert moved(fresh, trained.model) == {"features.10", "features.11", "features.12", "head"}
    statistics = dict(fresh.named_buffers())
    assert all(torch.equal(statistics[name], value) for name, value in trained.model.named_buffers())


def test_a_frozen_weight_that_moved_is_caught() -> None:
    model = build(MODEL, 10, seed=0)
    freeze_all_but(model, 1)
    before = frozen_fingerprint(model)
    prove_unmoved(model, before)
    with torch.no_grad():
        next(model.parameters()).add_(1e-6)
    with pytest.raises(TrainingError, match="changed during training"):
        prove_unmoved(model, before)


def test_batch_statistics_that_moved_are_caught() -> None:
    model = build(MODEL, 10, seed=0)
    freeze_all_but(model, 1)
    before = frozen_fingerprint(model)
    model.train()(torch.rand(2, 3, 48, 48))
    with pytest.raises(TrainingError, match="batch-norm statistics"):
        prove_unmoved(model, before)


def test_train_mode_keeps_batch_norms_and_frozen_stages_in_eval() -> None:
    model = build(MODEL, 10, seed=0)
    train_mode(model, freeze_all_but(model, 2))
    for name, module in model.named_modules():
        expected = bool(name) and stage_of(name) in ("features.11", "features.12", "head")
        assert module.training == (expected and not isinstance(module, nn.BatchNorm2d)), name


def test_more_stages_than_there_are_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"unfrozen_stages is 99, but the backbone has 13 stages"):
        freeze_all_but(build(MODEL, 10, seed=0), 99)


def test_rates_fall_toward_the_input(images: Images) -> None:
    heard: list[EpochMetrics] = []
    train(
        build(MODEL, 10, 0), Phase.fine_tune(FINE), LOOP, images, 0, lambda _, __, metrics: heard.append(metrics)
    )
    first = heard[0].learning_rates
    assert list(first) == ["head", "features.12", "features.11", "features.10"]
    rates = list(first.values())
    assert all(later == pytest.approx(earlier / 2) for earlier, later in pairwise(rates))
    assert set(heard[0].named("finetune")) >= {"finetune/train_loss", "finetune/val_accuracy", "finetune/lr_head"}


def test_the_same_seed_gives_the_same_weights_bit_for_bit(manifest: Manifest, split: Split) -> None:
    def whole() -> str:
        warm = warm_up(manifest.folder(), split, pin(MODEL), (LOOP, WARM), 3, silent)
        return fine_tune(manifest.folder(), split, warm, (LOOP, FINE), 3, silent).fingerprint

    torch.manual_seed(1)
    first = whole()
    torch.manual_seed(2)
    assert whole() == first


def test_the_recipe_learns_and_remembers_what_it_was_trained_on(manifest: Manifest, split: Split) -> None:
    warm = warm_up(manifest.folder(), split, pin(MODEL), (LOOP, WARM), 0, silent)
    tuned = fine_tune(manifest.folder(), split, warm, (LOOP, FINE), 0, silent)
    said = judge_holdout(manifest.folder(), split, tuned, 1.0)
    assert said.accuracy > 0.7
    assert not set(tuned.training_hashes) & set(split.rows("holdout")["sha256"])
    assert set(tuned.training_hashes) == set(split.rows("train", "validation")["sha256"])
    assert {"model", "loop", "warm_up", "fine_tune", "seed"} <= set(tuned.recipe)


def test_a_loss_that_is_not_finite_stops_training(images: Images) -> None:
    model = build(MODEL, 10, seed=0)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match="not finite"):
        train(model, Phase.warm_up(WARM), LOOP, images, 0, silent)


def test_evaluation_does_not_depend_on_the_size_of_batches_or_on_mode(images: Images) -> None:
    model = build(MODEL, 10, seed=0)
    rows = images.validation
    together = evaluate(model.train(), images.source, rows).logits
    alone = [evaluate(model, images.source, rows.iloc[[i]]).logits[0] for i in range(3)]
    for i, logits in enumerate(alone):
        assert logits == pytest.approx(together[i], abs=1e-4)


@pytest.mark.parametrize("strength", ["none", "light", "strong"])
def test_each_strength_of_augmentation_trains(images: Images, strength: str) -> None:
    loop = LoopConfig(augmentation=strength)  # type: ignore[arg-type]
    one = WarmUpConfig(epochs=1)
    assert len(train(build(MODEL, 10, 0), Phase.warm_up(one), loop, images, 0, silent).history) == 1


def test_augmentation_can_be_handed_to_worker_processes() -> None:
    import pickle

    from graft.transforms import for_training

    shape = Preprocessing(48, 48)
    for strength in ("none", "light", "strong"):
        transform = pickle.loads(pickle.dumps(for_training(strength, True, shape)))
        assert transform(torch.zeros(3, 60, 70, dtype=torch.uint8)).shape == (3, 48, 48)


def test_a_batch_is_what_its_seed_and_epoch_say(images: Images) -> None:
    from graft.datasets import training_batches
    from graft.transforms import for_training

    shape = Preprocessing(48, 48)
    source = ImageSource(images.source.root, images.source.classes, shape)
    transform = for_training("strong", True, shape)
    first, second = (training_batches(source, images.train, transform, 200, 5) for _ in range(2))
    one, again, other = next(iter(first))[0], next(iter(second))[0], next(iter(first))[0]
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
