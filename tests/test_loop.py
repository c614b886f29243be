"""The training loop: what it trains, that it is reproducible, and when it stops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from few_digits import MODEL, few_digits
from torch import nn

from graft.config.training import (
    AugmentationConfig,
    ComputeConfig,
    FineTuneConfig,
    LoraConfig,
    LossConfig,
    OptimizerConfig,
    TrainLoopConfig,
    WarmUpConfig,
)
from graft.errors import TrainingError
from graft.features.loaders import TrainingImages
from graft.models.backbones import build_model
from graft.models.stages import stage_of
from graft.training.history import EpochMetrics, OnEpochEnd, Phase
from graft.training.loop import TrainResult, train
from graft.training.trainer import Trainer

WARM = Phase.warm_up(WarmUpConfig(epochs=2, learning_rate=0.01))
FINE = Phase.fine_tune(FineTuneConfig(epochs=2, learning_rate=1e-3, layer_decay=0.5), (0, 0, 0))
FINE_STAGES = {"features.10", "features.11", "features.12"}
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.fixture(scope="module")
def few(digits: Path) -> TrainingImages:
    """Three images of each digit to train on: two steps per epoch."""
    return few_digits(digits, train=3, validation=20)


def silent(_: Phase, __: int, ___: EpochMetrics) -> None:
    pass


def make_config(**values: Any) -> TrainLoopConfig:  # noqa: ANN401
    augmentation = AugmentationConfig(horizontal_flip=False)
    return TrainLoopConfig.model_validate({"batch_size": 16, "augmentation": augmentation} | values)


DEFAULT = make_config()


def run(
    images: TrainingImages,
    phase: Phase = FINE,
    train_config: TrainLoopConfig = DEFAULT,
    on_epoch_end: OnEpochEnd = silent,
) -> TrainResult:
    start = TrainResult(build_model(MODEL, 10, seed=0))
    return train(start, phase, train_config, images, seed=0, on_epoch_end=on_epoch_end)


def changed_stages(after: nn.Module, statistics: bool = False) -> set[str]:
    """The stages in which any weight, or any batch-norm statistic, differs from the untrained model's."""
    old, new = build_model(MODEL, 10, seed=0).state_dict(), after.state_dict()
    assert list(old) == list(new)
    return {
        stage_of(name)
        for name in old
        if name.endswith(STATISTICS) == statistics and not torch.equal(old[name], new[name])
    }


def test_warm_up_trains_the_head_only(few: TrainingImages) -> None:
    result = run(few, WARM)
    assert changed_stages(result.model) == {"head"}
    assert changed_stages(result.model, statistics=True) == set()


def test_fine_tuning_trains_the_last_stages_but_not_their_batch_norm_statistics(few: TrainingImages) -> None:
    result = run(few)
    assert changed_stages(result.model) == FINE_STAGES | {"head"}
    assert changed_stages(result.model, statistics=True) == set()
    assert [digest.frozen_stages for digest in result.frozen_digests] == [10]


@pytest.mark.parametrize(("policy", "stages"), [("all_frozen", 0), ("frozen_stages", 3), ("adapt", 13)])
def test_batch_norm_policy_decides_whose_statistics_change(few: TrainingImages, policy: Any, stages: int) -> None:  # noqa: ANN401
    result = run(few, replace(FINE, epochs=1), make_config(batch_norm=policy))
    assert len(changed_stages(result.model, statistics=True)) == stages
    assert changed_stages(result.model) == FINE_STAGES | {"head"}


def test_gradual_unfreezing_adds_stages_and_records_a_frozen_digest_for_each_change(few: TrainingImages) -> None:
    reported: list[EpochMetrics] = []
    phase = replace(FINE, epochs=3, unfreeze_epochs=(0, 1, 1))
    result = run(few, phase, on_epoch_end=lambda _, __, metrics: reported.append(metrics))
    assert [list(metrics.learning_rates) for metrics in reported] == [
        ["head", "features.12"],
        ["head", "features.12", "features.11", "features.10"],
        ["head", "features.12", "features.11", "features.10"],
    ]
    assert [digest.frozen_stages for digest in result.frozen_digests] == [12, 10]
    assert len({digest.sha256 for digest in result.frozen_digests}) == 2


def test_learning_rates_decrease_toward_the_input(few: TrainingImages) -> None:
    head, *stages = run(few).history[0].learning_rates.values()
    assert 0 < head <= 1e-3
    assert stages == pytest.approx([head / 2, head / 4, head / 8])


VARIANTS: dict[str, TrainLoopConfig] = {
    "sgd": make_config(optimizer=OptimizerConfig(name="sgd")),
    "one cycle": make_config(optimizer=OptimizerConfig(schedule="one_cycle")),
    "constant": make_config(optimizer=OptimizerConfig(schedule="constant")),
    "accumulated": make_config(optimizer=OptimizerConfig(accumulation_steps=2)),
    "clipped": make_config(optimizer=OptimizerConfig(name="sgd", gradient_clip=1e-3)),
    "momentum": make_config(optimizer=OptimizerConfig(momentum=0.5)),
    "strong": make_config(augmentation=AugmentationConfig(strength="strong")),
    "none": make_config(augmentation=AugmentationConfig(strength="none")),
    "mixup": make_config(augmentation=AugmentationConfig(mixup_alpha=0.2)),
    "cutmix": make_config(augmentation=AugmentationConfig(cutmix_alpha=1.0)),
    "focal": make_config(loss=LossConfig(focal_gamma=0.5)),
    "balanced": make_config(sampling="balanced"),
    "averaged": make_config(ema_decay=0.9),
    "bfloat16": make_config(compute=ComputeConfig(precision="bfloat16")),
    "contiguous": make_config(compute=ComputeConfig(channels_last=False)),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_option_trains_what_is_unfrozen_has_an_effect_and_is_reproducible(
    few: TrainingImages, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    phase = replace(FINE, epochs=3 if name in ("one cycle", "constant") else 1)
    first = run(few, phase, VARIANTS[name]).model
    assert changed_stages(first) == FINE_STAGES | {"head"}
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path))  # otherwise the second run would read the first one's snapshot
    second = run(few, phase, VARIANTS[name]).model
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    if name != "contiguous":  # the memory layout need not change the weights
        default = run(few, phase).model
        head = "classifier.1.weight"
        assert not torch.equal(first.get_parameter(head), default.get_parameter(head))


def test_lora_adapters_are_merged_and_change_only_the_weights_they_adapt(few: TrainingImages) -> None:
    result = run(few, replace(FINE, epochs=1, lora=LoraConfig(rank=2)))
    before, after = build_model(MODEL, 10, seed=0).state_dict(), result.model.state_dict()
    assert changed_stages(result.model) == FINE_STAGES | {"head"}
    norms = [name for name in before if name.startswith("features") and ".1." in name and "weight" in name]
    assert norms
    assert all(torch.equal(before[name], after[name]) for name in norms if before[name].ndim == 1)


def test_training_without_validation_images_gives_the_same_weights_and_no_validation_metrics(
    few: TrainingImages, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with_validation = run(few)
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path))
    without = run(replace(few, validation=few.validation.head(0)))
    pairs = zip(with_validation.model.parameters(), without.model.parameters(), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)
    assert [epoch.val_accuracy for epoch in without.history] == [None, None]
    assert set(without.history[0].to_metrics("finetune")) == {"finetune/train_loss"} | {
        f"finetune/lr_{stage}" for stage in ("head", *FINE_STAGES)
    }
    assert without.predictions == {}


def test_phase_that_stops_early_is_a_prefix_of_the_whole_phase(few: TrainingImages) -> None:
    whole = run(few, replace(FINE, epochs=5))
    stopped = run(few, replace(FINE, epochs=5, stop_after=3))
    assert stopped.history == whole.history[:3]
    assert sorted(whole.predictions) == [3, 4, 5]
    assert np.array_equal(stopped.predictions[3].logits, whole.predictions[3].logits)


def test_non_finite_loss_names_the_batch_and_writes_its_paths_to_a_file(few: TrainingImages) -> None:
    model = build_model(MODEL, 10, seed=0)
    with torch.no_grad():
        model.get_parameter("classifier.1.weight")[0].fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"epoch 1 of warmup, in a batch with .* and 13 more") as error:
        train(TrainResult(model), WARM, DEFAULT, few, seed=0, on_epoch_end=silent)
    listed = Path(str(error.value).split("(all in ")[1].split(")")[0]).read_text().splitlines()
    assert set(listed) <= set(few.train["path"])
    assert "training.warm_up.learning_rate" in str(error.value)


def test_snapshot_of_a_model_with_another_dropout_is_not_read(few: TrainingImages) -> None:
    """The dropout is not part of the weights, but must be part of the snapshot's key."""
    models = (build_model(MODEL.model_copy(update={"dropout": dropout}), 10, seed=0) for dropout in (0.2, 0.8))
    first, second = (
        train(TrainResult(model), WARM, DEFAULT, few, seed=0, on_epoch_end=silent).model for model in models
    )
    assert not torch.equal(first.get_parameter("classifier.1.weight"), second.get_parameter("classifier.1.weight"))


def test_changed_frozen_weight_stops_training_at_every_attempt(
    few: TrainingImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backward(self: Trainer, loss: torch.Tensor, _: int) -> None:
        loss.backward()  # type: ignore[no-untyped-call]
        self._step_lrs.append({"head": 0.1})
        with torch.no_grad():
            next(self.model.parameters()).add_(1e-3)

    monkeypatch.setattr(Trainer, "backward_and_step", backward)
    for _ in range(2):
        with pytest.raises(TrainingError, match="changed during warmup"):
            run(few, replace(WARM, epochs=1))
