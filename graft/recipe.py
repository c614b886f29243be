"""The recipe of the final model: warm-up makes a checkpoint, fine-tuning makes a better one of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from graft.backbones import PinnedModel, build, count_stages, licence, preprocessing
from graft.checkpoint import Checkpoint
from graft.config import FineTuneConfig, LoopConfig, ModelConfig, TrainingConfig, WarmUpConfig
from graft.datasets import ImageSource
from graft.errors import ConfigError
from graft.metrics import Predictions
from graft.seeds import derive_seed
from graft.splits import Split
from graft.training import Images, OnEpochEnd, Phase, evaluate, train
from graft.transforms import Preprocessing


def check(model: ModelConfig, training: TrainingConfig) -> None:
    """Refuse to thaw more stages than the backbone has; raises ``ConfigError``."""
    asked, known = training.fine_tune.unfrozen_stages, count_stages(model)
    if asked > known:
        raise ConfigError(
            f"training.fine_tune.unfrozen_stages is {asked}; {model.architecture} has {known} stages, "
            f"give at most that."
        )


def images_of(root: Path, split: Split, shape: Preprocessing) -> Images:
    """The training and validation images of a split."""
    return Images(ImageSource(root, split.classes, shape), split.rows("train"), split.rows("validation"))


def warm_up(
    root: Path,
    split: Split,
    model: PinnedModel,
    configs: tuple[LoopConfig, WarmUpConfig],
    seed: int,
    tell: OnEpochEnd,
) -> Checkpoint:
    """Train a new head on the frozen backbone; ``tell`` hears of each epoch."""
    loop, config = configs
    shape = preprocessing(model.config)
    images = images_of(root, split, shape)
    fresh = build(model.config, len(split.classes), derive_seed(seed, "head"))
    trained = train(fresh, Phase.warm_up(config), loop, images, seed, tell)
    return Checkpoint(
        architecture=model.config.architecture,
        dropout=model.config.dropout,
        classes=split.classes,
        preprocessing=shape,
        stage="warm_up",
        weights=contiguous(trained.model),
        weights_licence=licence(model.config),
        recipe=_dumped({"model": model, "loop": loop, "warm_up": config}) | {"seed": seed},
        history=trained.history,
        best_epoch=trained.best_epoch,
        training_hashes=sorted({*images.train["sha256"], *images.validation["sha256"]}),
    )


def fine_tune(
    root: Path,
    split: Split,
    warm: Checkpoint,
    configs: tuple[LoopConfig, FineTuneConfig],
    seed: int,
    tell: OnEpochEnd,
) -> Checkpoint:
    """Train the last stages and the head of a warm checkpoint; ``tell`` hears of each epoch."""
    loop, config = configs
    images = images_of(root, split, warm.preprocessing)
    trained = train(warm.model(), Phase.fine_tune(config), loop, images, seed, tell)
    return replace(
        warm,
        stage="fine_tune",
        weights=contiguous(trained.model),
        recipe=warm.recipe | _dumped({"loop": loop, "fine_tune": config}),
        history=trained.history,
        best_epoch=trained.best_epoch,
    )


def judge_holdout(root: Path, split: Split, checkpoint: Checkpoint, temperature: float) -> Predictions:
    """What the model says of the held-out images, with calibrated probabilities."""
    source = ImageSource(root, checkpoint.classes, checkpoint.preprocessing)
    return replace(evaluate(checkpoint.model(), source, split.rows("holdout")), temperature=temperature)


def contiguous(model: nn.Module) -> dict[str, Tensor]:
    """A model's weights as a file wants them."""
    return {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}


def _dumped(
    sections: Mapping[str, LoopConfig | WarmUpConfig | FineTuneConfig | PinnedModel],
) -> dict[str, object]:
    return {name: section.model_dump() for name, section in sections.items()}
