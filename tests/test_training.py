"""Only what should move moves, and the same seed gives the same weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from graft.config import ModelConfig, SplitConfig
from graft.data.manifest import Manifest, scan
from graft.data.splits import Split, split_images
from graft.errors import TrainingError
from graft.inputs.datasets import Images, ImageSource, TrainingBatches, Variety
from graft.learning.evaluation import evaluate
from graft.learning.history import EpochMetrics, OnEpochEnd, Phase
from graft.learning.learner import Learner
from graft.networks.backbones import build, preprocessing, stage_of
from graft.networks.weights import pin
from graft.plan import make_plan
from graft.recipe import fine_tune, images_of, judge_holdout, warm_up
from graft.training import EarlyStopping, Trained, train
from graft.training_config import (
    AugmentationConfig,
    ComputeConfig,
    FineTuneConfig,
    LoopConfig,
    LoraConfig,
    LossConfig,
    OptimizerConfig,
    TrainingConfig,
    WarmUpConfig,
)

MODEL = ModelConfig(architecture="mobilenet_v3_small", weights="letters")
PLAIN = AugmentationConfig(horizontal_flip=False)
RECIPE = TrainingConfig(
    strategy="last_stages",
    batch_size=16,
    augmentation=PLAIN,
    warm_up=WarmUpConfig(epochs=2, learning_rate=0.01),
    fine_tune=FineTuneConfig(epochs=2, unfrozen_stages=3, learning_rate=1e-3, stage_decay=0.5),
)
LOOP = RECIPE.loop
WARM = Phase.warm_up(RECIPE.warm_up)
FINE = Phase.fine_tune(RECIPE.fine_tune, (0, 0, 0))
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.fixture(scope="module")
def manifest(digits: Path) -> Manifest:
    return scan(digits)


@pytest.fixture(scope="module")
def split(manifest: Manifest) -> Split:
    return split_images(manifest, {path: n for n, path in enumerate(manifest.table["path"])}, SplitConfig())


@pytest.fixture(scope="module")
def images(manifest: Manifest, split: Split) -> Images:
    return images_of(manifest.folder(), split, preprocessing(MODEL))


@pytest.fixture(scope="module")
def few(images: Images) -> Images:
    """Three of each digit to train on: two steps an epoch."""
    return replace(images, train=images.train.groupby("label").head(3))


def silent(_: Phase, __: int, ___: EpochMetrics) -> None:
    pass


def loop(**values: Any) -> LoopConfig:  # noqa: ANN401
    return LoopConfig.model_validate({"batch_size": 16, "augmentation": PLAIN} | values)


def run(images: Images, phase: Phase = FINE, loop: LoopConfig = LOOP, tell: OnEpochEnd = silent) -> Trained:
    return train(Trained(build(MODEL, 10, seed=0)), phase, loop, images, 0, tell)


def moved(after: nn.Module, statistics: bool = False) -> set[str]:
    """The stages in which any weight, or any batch-norm statistic, differs from the fresh model's."""
    old, new = build(MODEL, 10, seed=0).state_dict(), after.state_dict()
    assert list(old) == list(new)
    return {
        stage_of(name)
        for name in old
        if name.endswith(STATISTICS) == statistics and not torch.equal(old[name], new[name])
    }


def test_warm_up_moves_the_head_alone(few: Images) -> None:
    trained = run(few, WARM)
    assert moved(trained.model) == {"head"}
    assert moved(trained.model, statistics=True) == set()


def test_fine_tuning_moves_the_last_stages_and_learns_their_batch_statistics(few: Images) -> None:
    trained = run(few)
    assert moved(trained.model) == {"features.10", "features.11", "features.12", "head"}
    assert moved(trained.model, statistics=True) == {"features.10", "features.11", "features.12"}
    assert [proof.frozen_stages for proof in trained.proofs] == [10]


@pytest.mark.parametrize(("policy", "stages"), [("all_frozen", 0), ("frozen_stages", 3), ("adapt", 13)])
def test_the_batch_norm_policy_says_whose_statistics_move(few: Images, policy: Any, stages: int) -> None:  # noqa: ANN401
    # With a patience of none, the last epoch counts, whatever it is worth.
    trained = run(few, replace(FINE, epochs=1, patience=None), loop(batch_norm=policy))
    assert len(moved(trained.model, statistics=True)) == stages
    assert moved(trained.model) == {"features.10", "features.11", "features.12", "head"}


def test_stages_thaw_one_after_another_and_each_change_is_proven(few: Images) -> None:
    heard: list[EpochMetrics] = []
    phase = replace(FINE, epochs=3, thaw_epochs=(0, 1, 1), patience=None)
    trained = run(few, phase, tell=lambda _, __, metrics: heard.append(metrics))
    assert [list(metrics.learning_rates) for metrics in heard] == [
        ["head", "features.12"],
        ["head", "features.12", "features.11", "features.10"],
        ["head", "features.12", "features.11", "features.10"],
    ]
    assert [proof.frozen_stages for proof in trained.proofs] == [12, 10]
    assert len({proof.sha256 for proof in trained.proofs}) == 2


def test_rates_fall_toward_the_input(few: Images) -> None:
    head, *others = run(few).history[0].learning_rates.values()
    assert 0 < head <= 1e-3
    assert others == pytest.approx([head / 2, head / 4, head / 8])


VARIANTS: dict[str, LoopConfig] = {
    "sgd": loop(optimizer=OptimizerConfig(name="sgd")),
    "one cycle": loop(optimizer=OptimizerConfig(schedule="one_cycle")),
    "constant": loop(optimizer=OptimizerConfig(schedule="constant")),
    "accumulated": loop(optimizer=OptimizerConfig(accumulation_steps=2)),
    "clipped": loop(optimizer=OptimizerConfig(name="sgd", gradient_clip=1e-3)),
    "momentum": loop(optimizer=OptimizerConfig(momentum=0.5)),
    "strong": loop(augmentation=AugmentationConfig(strength="strong")),
    "none": loop(augmentation=AugmentationConfig(strength="none")),
    "mixup": loop(augmentation=AugmentationConfig(mixup_alpha=0.2)),
    "cutmix": loop(augmentation=AugmentationConfig(cutmix_alpha=1.0)),
    "focal": loop(loss=LossConfig(focal_gamma=0.5)),
    "balanced": loop(sampling="balanced"),
    "averaged": loop(ema_decay=0.9),
    "bfloat16": loop(compute=ComputeConfig(precision="bfloat16")),
    "contiguous": loop(compute=ComputeConfig(channels_last=False)),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_each_way_of_training_moves_what_it_should_and_repeats_itself(
    few: Images, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    once = replace(FINE, epochs=3 if name in ("one cycle", "constant") else 1, patience=None)
    first = run(few, once, VARIANTS[name])
    assert moved(first.model) == {"features.10", "features.11", "features.12", "head"}
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path))  # or the snapshot of the first would answer
    again = run(few, once, VARIANTS[name])
    pairs = zip(first.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert not any(torch.equal(weight, one) for weight, one in _against_default(first.model, few, name, once))


def _against_default(
    model: nn.Module, few: Images, name: str, phase: Phase
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The head's weights beside those of the default loop: an option that does nothing would leave them equal."""
    if name == "contiguous":  # a layout is no other recipe
        return []
    default = run(few, phase).model.state_dict()
    own = model.state_dict()
    return [(own[key], default[key]) for key in own if key == "classifier.1.weight"]


def test_adapters_are_merged_and_what_they_adapt_is_all_that_changes(few: Images) -> None:
    trained = run(few, replace(FINE, epochs=1, patience=None, lora=LoraConfig(rank=2)))
    before, after = build(MODEL, 10, seed=0).state_dict(), trained.model.state_dict()
    assert moved(trained.model) == {"features.10", "features.11", "features.12", "head"}
    norms = [name for name in before if name.startswith("features") and ".1." in name and "weight" in name]
    assert norms
    assert all(torch.equal(before[name], after[name]) for name in norms if before[name].ndim == 1)


def test_a_phase_that_makes_nothing_better_gives_back_what_it_began_with(few: Images) -> None:
    warm = run(few, WARM)
    assert warm.best is not None
    perfect = replace(warm, best=replace(warm.best, val_macro_f1=1.0, val_loss=0.0))
    tuned = train(perfect, replace(FINE, patience=1), LOOP, few, 0, silent)
    assert (tuned.best_epoch, tuned.best, len(tuned.history)) == (0, perfect.best, 1)
    pairs = zip(warm.model.parameters(), tuned.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_training_stops_after_epochs_that_are_no_better_and_the_best_counts() -> None:
    def metrics(value: float) -> EpochMetrics:
        return EpochMetrics(1.0, 1.0, value, value, value)

    stopping = EarlyStopping(replace(FINE, epochs=9, patience=2), "macro_f1", None)
    better = [stopping.note(metrics(value)) for value in (0.5, 0.7, 0.6, 0.7)]
    assert better == [True, True, False, False]
    assert (stopping.finished, stopping.best_epoch, len(stopping.history)) == (True, 2, 4)


def test_the_same_seed_gives_the_same_checkpoint_bit_for_bit(
    manifest: Manifest, split: Split, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def whole(seed: int) -> str:
        monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / str(seed)))
        torch.manual_seed(seed)
        plan = make_plan(manifest.folder(), split, pin(MODEL), RECIPE, 3)
        warm = warm_up(manifest.folder(), split, pin(MODEL), (LOOP, RECIPE.warm_up), 3, silent)
        return fine_tune(manifest.folder(), split, warm, (LOOP, RECIPE.fine_tune, plan), 3, silent).fingerprint

    assert whole(1) == whole(2)


@pytest.mark.parametrize("strategy", ["auto", "head_only", "last_stages", "gradual"])
def test_the_recipe_learns_and_remembers_what_it_was_trained_on(
    manifest: Manifest,
    split: Split,
    strategy: Any,  # noqa: ANN401
) -> None:
    recipe = TrainingConfig(
        strategy=strategy, batch_size=16, augmentation=PLAIN, warm_up=RECIPE.warm_up,
        fine_tune=FineTuneConfig(epochs=2, learning_rate=1e-3, stage_decay=0.5),
    )  # fmt: skip
    plan = make_plan(manifest.folder(), split, pin(MODEL), recipe, 0)
    warm = warm_up(manifest.folder(), split, pin(MODEL), (LOOP, recipe.warm_up), 0, silent)
    tuned = fine_tune(manifest.folder(), split, warm, (LOOP, recipe.fine_tune, plan), 0, silent)
    said = judge_holdout(manifest.folder(), split, tuned, 1.0, recipe.compute)
    assert said.accuracy > 0.7
    assert (tuned is warm) == (not plan.decision.thaw_epochs)
    assert not set(tuned.training_hashes) & set(split.rows("holdout")["sha256"])
    assert set(tuned.training_hashes) == set(split.rows("train", "validation")["sha256"])
    assert {"model", "loop", "warm_up", "seed"} <= set(tuned.recipe)


def test_a_loss_that_is_not_finite_names_the_batch_and_keeps_its_paths(few: Images) -> None:
    model = build(MODEL, 10, seed=0)
    with torch.no_grad():
        model.get_parameter("classifier.1.weight")[0].fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"epoch 1 of warmup, at a batch with .* and 13 more") as error:
        train(Trained(model), WARM, LOOP, few, 0, silent)
    listed = Path(str(error.value).split("(all in ")[1].split(")")[0]).read_text().splitlines()
    assert set(listed) <= set(few.train["path"])
    assert "training.warm_up.learning_rate" in str(error.value)


def test_evaluation_does_not_depend_on_the_size_of_batches_or_on_mode(images: Images) -> None:
    model = build(MODEL, 10, seed=0)
    rows = images.validation
    together = evaluate(model.train(), images.source, rows).logits
    alone = [evaluate(model, images.source, rows.iloc[[i]]).logits[0] for i in range(3)]
    for i, logits in enumerate(alone):
        assert logits == pytest.approx(together[i], abs=1e-4)


def batches(images: Images, seed: int = 5, **values: Any) -> TrainingBatches:  # noqa: ANN401
    source = ImageSource(images.source.root, images.source.classes, preprocessing(MODEL))
    return TrainingBatches(source, images.train, loop(**values), Variety(seed))


def test_a_batch_is_what_its_seed_and_epoch_say(images: Images) -> None:
    strong = AugmentationConfig(strength="strong")
    first, second = (batches(images, batch_size=200, augmentation=strong) for _ in range(2))
    one, again, other = (next(part)[0] for part in (first.epoch(3), second.epoch(3), first.epoch(4)))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_balanced_sampling_draws_every_class_as_often(images: Images) -> None:
    table = images.train
    lopsided = replace(images, train=table[(table["label"] == "0") | (table["path"].str.endswith("0.png"))])
    drawn = torch.cat([labels for _, labels, _ in batches(lopsided, sampling="balanced").epoch(0)])
    shuffled = torch.cat([labels for _, labels, _ in batches(lopsided).epoch(0)])
    assert sorted(shuffled.tolist()) == sorted(int(label) for label in lopsided.train["label"])
    assert (drawn == 0).sum() < (shuffled == 0).sum() / 2


def test_no_batch_holds_a_single_image(images: Images) -> None:
    rows = images.train.head(17)
    assert [len(labels) for _, labels, _ in batches(replace(images, train=rows)).epoch(0)] == [16]


def test_another_dropout_is_another_training(few: Images) -> None:
    """What the weights do not hold must still not be answered by another training's snapshot."""
    models = (build(MODEL.model_copy(update={"dropout": dropout}), 10, seed=0) for dropout in (0.2, 0.8))
    first, second = (train(Trained(model), WARM, LOOP, few, 0, silent).model for model in models)
    assert not torch.equal(first.get_parameter("classifier.1.weight"), second.get_parameter("classifier.1.weight"))


def test_an_image_that_is_drawn_twice_is_varied_twice(images: Images) -> None:
    one = replace(images, train=images.train.groupby("label").head(1).iloc[[0, 1]])
    many = replace(one, train=pd.concat([one.train.iloc[[0]], *[one.train.iloc[[1]]] * 3]))
    strong = AugmentationConfig(strength="strong")
    pixels, labels, rows = next(batches(many, augmentation=strong, sampling="balanced", batch_size=4).epoch(2))
    assert len(labels) == 4
    assert len({(int(row), one.numpy().tobytes()) for row, one in zip(rows, pixels, strict=True)}) == 4


def test_a_frozen_weight_that_moves_stops_training_however_often_it_is_started(
    few: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    def learn(self: Learner, loss: torch.Tensor, _: int) -> None:
        loss.backward()  # type: ignore[no-untyped-call]
        self._rates.append({"head": 0.1})
        with torch.no_grad():
            next(self.model.parameters()).add_(1e-3)

    monkeypatch.setattr(Learner, "learn", learn)
    for _ in range(2):
        with pytest.raises(TrainingError, match="changed during warmup"):
            run(few, replace(WARM, epochs=1))
