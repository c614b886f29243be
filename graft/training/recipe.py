"""The recipe: head warm-up on a frozen backbone, then fine-tuning of what the plan unfreezes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from graft.config.strict_model import StrictModel
from graft.config.training import ComputeConfig, TrainingConfig, TrainLoopConfig, WarmUpConfig
from graft.data.splits import Split
from graft.errors import PhaseError
from graft.evaluation.evaluate import evaluate
from graft.evaluation.metrics import Predictions
from graft.features.feature_cache import precompute
from graft.features.loaders import DatasetInfo, TrainingImages
from graft.features.split_model import SplitModel
from graft.models.backbones import build_model, preprocessing_for
from graft.models.stages import stage_names
from graft.models.transforms import Preprocessing
from graft.models.weights import FingerprintedModel, weights_licence
from graft.seeds import derive_seed
from graft.training.checkpoint import Checkpoint
from graft.training.history import FINE_TUNE, WARM_UP, OnEpochEnd, Phase
from graft.training.loop import TrainResult, train
from graft.training.plan import TrainingPlan

logger = logging.getLogger(__name__)


def run_phases(
    start: TrainResult,
    phases: Sequence[Phase],
    train_config: TrainLoopConfig,
    images: TrainingImages,
    *,
    seed: int,
    on_epoch_end: OnEpochEnd,
) -> list[TrainResult]:
    """Train one phase after another, each from the result of the one before; returns the result of each.

    A phase that diverges or forgets is abandoned: its result is the model of its start, and says why. Raises
    ``TrainingError`` if there was no trained model at its start. The steps of the pipeline, the folds and the
    learning-rate finder all train with this function.
    """
    results = []
    for phase in phases:
        try:
            start = train(start, phase, train_config, images, seed=seed, on_epoch_end=on_epoch_end)
        except PhaseError as error:
            if start.metrics is None:
                raise
            logger.warning("The %s phase is abandoned, and the model from before it is kept: %s", phase.name, error)
            start = TrainResult(start.model, start.metrics, failure=str(error))
        results.append(start)
    return results


def planned_phases(training: TrainingConfig, plan: TrainingPlan) -> list[Phase]:
    """Head warm-up, and the fine-tuning of each candidate."""
    return [Phase.warm_up(training.warm_up), *(candidate.phase for candidate in plan.candidates[1:])]


def training_images(split: Split, preprocessing: Preprocessing) -> TrainingImages:
    """The images of the final training: all that are not held out, and none to validate it.

    What needs images that are held back from training was decided by the folds.
    """
    dataset = DatasetInfo(split.folder(), split.classes, preprocessing)
    records = split.records("train")
    return TrainingImages(dataset, records, validation=records.head(0))


def new_head_model(model: FingerprintedModel, classes: list[str], seed: int) -> nn.Module:
    """The pretrained backbone with the new head of the final model."""
    return build_model(model.config, len(classes), derive_seed(seed, "head"))


def warm_up_head(
    split: Split,
    model: FingerprintedModel,
    *,
    train_config: TrainLoopConfig,
    warm_up: WarmUpConfig,
    seed: int,
    on_epoch_end: OnEpochEnd,
) -> Checkpoint:
    """Train a new head on the frozen backbone."""
    preprocessing = preprocessing_for(model.config)
    images = training_images(split, preprocessing)
    start = TrainResult(new_head_model(model, split.classes, seed))
    phases = [Phase.warm_up(warm_up)]
    (result,) = run_phases(start, phases, train_config, images, seed=seed, on_epoch_end=on_epoch_end)
    return Checkpoint(
        architecture=model.config.architecture,
        dropout=model.config.dropout,
        classes=split.classes,
        preprocessing=preprocessing,
        phase=WARM_UP,
        weights=cpu_state_dict(result.model),
        weights_licence=weights_licence(model.config),
        recipe=_dumped({"model": model, "train_config": train_config, "warm_up": warm_up}) | {"seed": seed},
        history=result.history,
        frozen_digests=result.frozen_digests,
        training_hashes=sorted(set(images.train["sha256"])),
    )


def fine_tune(
    split: Split,
    warm: Checkpoint,
    *,
    train_config: TrainLoopConfig,
    plan: TrainingPlan,
    seed: int,
    on_epoch_end: OnEpochEnd,
) -> Checkpoint:
    """Train the stages that the plan's recipe unfreezes, and the head.

    Returns ``warm`` if it unfreezes none, and ``warm`` with the reason if the phase was abandoned.
    """
    if not plan.recipe.unfreeze_epochs:
        logger.info("Fine-tuning is skipped (%s).", plan.summary)
        return warm
    images = training_images(split, warm.preprocessing)
    start = TrainResult(warm.model(), warm.history[-1])
    phases = [plan.recipe.phase]
    (result,) = run_phases(start, phases, train_config, images, seed=seed, on_epoch_end=on_epoch_end)
    if result.failure:
        return replace(warm, failure=result.failure)
    settings = {"train_config": train_config.model_dump(mode="json"), "fine_tune": plan.record()["candidates"][-1]}
    return replace(
        warm,
        phase=FINE_TUNE,
        weights=cpu_state_dict(result.model),
        recipe=warm.recipe | settings,
        history=result.history,
        frozen_digests=[*warm.frozen_digests, *result.frozen_digests],
    )


def precompute_features(split: Split, model: FingerprintedModel, training: TrainingConfig, plan: TrainingPlan) -> None:
    """Fill the feature cache, in one pass, with what the planned training of model and folds will read."""
    if model.config.weights == "none":  # each training then starts from random weights of its own
        return
    training = plan.with_compute(training)
    network = build_model(model.config, len(split.classes), 0)
    images = training_images(split, preprocessing_for(model.config))
    split_model = SplitModel(network, "head", training.train_config, images.dataset)
    precompute(split_model, images, *planned_splits(planned_phases(training, plan), stage_names(network)))


def planned_splits(phases: list[Phase], stages: list[str]) -> tuple[dict[str, int], set[str]]:
    """Where these phases split a model: the epochs trained from each stage, and the stages it is tested from."""
    epochs: dict[str, int] = {}
    for phase in phases:
        for stage, count in phase.split_stages(stages).items():
            epochs[stage] = max(count, epochs.get(stage, 0))  # warm-up and fine-tuning may split at the same stage
    return epochs, {phase.first_trainable_stage(stages) for phase in phases}


def evaluate_holdout(
    split: Split, checkpoint: Checkpoint, *, temperature: float, compute: ComputeConfig
) -> Predictions:
    """Predictions on the holdout, with calibrated probabilities."""
    dataset = DatasetInfo(split.folder(), checkpoint.classes, checkpoint.preprocessing)
    predictions = evaluate(checkpoint.model(), dataset, split.records("holdout"), compute=compute)
    return replace(predictions, temperature=temperature)


def parity_images(split: Split, count: int) -> list[Path]:
    """The first ``count`` held-out images in the order of their hashes: a mixture of all classes."""
    folder, records = split.folder(), split.records("holdout").sort_values("sha256")
    return [folder / path for path in records["path"].head(count)]


def cpu_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state dict on the CPU, contiguous, as safetensors requires it."""
    return {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}


def _dumped(sections: Mapping[str, StrictModel]) -> dict[str, object]:
    return {name: section.model_dump(mode="json") for name, section in sections.items()}
