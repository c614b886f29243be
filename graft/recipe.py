"""The recipe of the final model: warm-up makes a checkpoint, fine-tuning makes a better one of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from torch import Tensor, nn

from graft.checkpoint import Checkpoint
from graft.compute.devices import Compute, require_compiler
from graft.config import ModelConfig, TrainingParameters
from graft.data.manifest import scan
from graft.data.splits import Split, split_images
from graft.data.validation_report import require_fit
from graft.errors import ConfigError
from graft.inputs.cut import Cut
from graft.inputs.datasets import Images, ImageSource
from graft.inputs.frozen_views import compute_ahead
from graft.learning.evaluation import evaluate
from graft.learning.history import OnEpochEnd, Phase
from graft.learning.metrics import Predictions
from graft.networks.backbones import build, count_stages, has_batch_norms, preprocessing, stages
from graft.networks.backbones import check as check_model
from graft.networks.lora import require_peft
from graft.networks.transforms import Preprocessing
from graft.networks.weights import PinnedModel, licence, pin
from graft.plan import TrainingPlan, fine_tuning
from graft.section import Section
from graft.seeds import derive_seed
from graft.training import Trained, train
from graft.training_config import ComputeConfig, FineTuneConfig, LoopConfig, TrainingConfig, WarmUpConfig

logger = logging.getLogger(__name__)


def check(model: ModelConfig, training: TrainingConfig) -> None:
    """Refuse what this backbone or this machine cannot do; raises ``ConfigError``."""
    tune, known = training.fine_tune, count_stages(model)
    for key, asked in (
        ("unfrozen_stages", tune.unfrozen_stages or 0),
        ("thaw_epochs", len(tune.thaw_epochs or ())),
    ):
        if asked > known:
            raise ConfigError(
                f"training.fine_tune.{key} thaws {asked} stages; {model.architecture} has {known}, give at most "
                f"that."
            )
    if tune.lora:
        require_peft()
    adapts = training.batch_norm == "adapt"
    learns = adapts or (
        training.batch_norm == "frozen_stages" and training.strategy != "head_only" and not tune.lora
    )
    if training.batch_size == 1 and learns and has_batch_norms(model):
        raise ConfigError(
            f"training.batch_size is 1, and the batch norms of {model.architecture} learn nothing from one image; "
            f"give 2 or more, or set training.batch_norm to all_frozen."
        )
    Compute.of(training.compute)
    require_compiler(training.compute)


def prepare(parameters: TrainingParameters) -> tuple[Split, PinnedModel]:
    """The split and the model of a config without a pipeline; raises what the pipeline's first steps would."""
    from graft.data.validation import validate  # Great Expectations takes seconds to import: not for a pipeline

    data = parameters.data
    check_model(parameters.model)
    check(parameters.model, parameters.training)
    manifest = scan(data.root, data.limits)
    report = validate(manifest, data.validation, parameters.cross_validation.folds, data.bad_images)
    require_fit(report)
    return split_images(manifest, report.clusters, data.split), pin(parameters.model)


def images_of(root: Path, split: Split, shape: Preprocessing) -> Images:
    """The training and validation images of a split."""
    return Images(ImageSource(root, split.classes, shape), split.rows("train"), split.rows("validation"))


def keep_frozen(
    root: Path, split: Split, model: PinnedModel, training: TrainingConfig, plan: TrainingPlan
) -> None:
    """Compute what frozen layers give of all training images, for all that the plan will train, in one pass."""
    if model.config.weights == "none":  # then every training begins with a network of its own
        return
    training = plan.settled(training)
    network = build(model.config, len(split.classes), 0)
    images, names = images_of(root, split, preprocessing(model.config)), stages(network)
    compute_ahead(
        Cut(network, "head", training.loop, images.source), images, *boundaries(phases(training, plan), names)
    )


def phases(training: TrainingConfig, plan: TrainingPlan) -> list[Phase]:
    """Warm-up, and fine-tuning where anything thaws."""
    warm = Phase.warm_up(training.warm_up)
    return [warm, fine_tuning(training.fine_tune, plan.decision)] if plan.decision.thaw_epochs else [warm]


def boundaries(phases: list[Phase], stages: list[str]) -> tuple[dict[str, int], set[str]]:
    """The stages before which these phases cut a network, for how many epochs, and those where it is tested."""
    epochs = {stage: count for phase in phases for stage, count in phase.boundaries(stages).items()}
    return epochs, {phase.first_moving(stages) for phase in phases}


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
    trained = train(Trained(fresh), Phase.warm_up(config), loop, images, seed, tell)
    assert trained.best is not None
    return Checkpoint(
        architecture=model.config.architecture,
        dropout=model.config.dropout,
        classes=split.classes,
        preprocessing=shape,
        stage="warm_up",
        weights=contiguous(trained.model),
        weights_licence=licence(model.config),
        recipe=_dumped({"model": model, "loop": loop, "warm_up": config}) | {"seed": seed},
        best=trained.best,
        best_epoch=trained.best_epoch,
        history=trained.history,
        proofs=trained.proofs,
        training_hashes=sorted({*images.train["sha256"], *images.validation["sha256"]}),
    )


def fine_tune(
    root: Path,
    split: Split,
    warm: Checkpoint,
    configs: tuple[LoopConfig, FineTuneConfig, TrainingPlan],
    seed: int,
    tell: OnEpochEnd,
) -> Checkpoint:
    """Train what thaws of a warm checkpoint, and its head; the checkpoint itself where nothing does."""
    loop, config, plan = configs
    if not plan.decision.thaw_epochs:
        logger.info("Fine-tuning is left out (%s).", plan.verdict)
        return warm
    images = images_of(root, split, warm.preprocessing)
    trained = train(Trained(warm.model(), warm.best), fine_tuning(config, plan.decision), loop, images, seed, tell)
    if trained.best_epoch == 0:
        logger.warning(
            "No epoch of fine-tuning was better than the warm head on the validation images; its weights stay."
        )
    assert trained.best is not None
    return replace(
        warm,
        stage="fine_tune",
        weights=contiguous(trained.model),
        recipe=warm.recipe | _dumped({"loop": loop, "fine_tune": config}) | {"decision": asdict(plan.decision)},
        best=trained.best,
        best_epoch=trained.best_epoch,
        history=trained.history,
        proofs=[*warm.proofs, *trained.proofs],
    )


def judge_holdout(
    root: Path, split: Split, checkpoint: Checkpoint, temperature: float, compute: ComputeConfig
) -> Predictions:
    """What the model says of the held-out images, with calibrated probabilities."""
    source = ImageSource(root, checkpoint.classes, checkpoint.preprocessing)
    said = evaluate(checkpoint.model(), source, split.rows("holdout"), compute)
    return replace(said, temperature=temperature)


def parity_images(root: Path, split: Split, count: int) -> list[Path]:
    """So many held-out images, by content: of all classes, not the first of the alphabet."""
    return [root / path for path in split.rows("holdout").sort_values("sha256")["path"].head(count)]


def contiguous(model: nn.Module) -> dict[str, Tensor]:
    """A model's weights as a file wants them."""
    return {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}


def _dumped(sections: Mapping[str, Section]) -> dict[str, object]:
    return {name: section.model_dump(mode="json") for name, section in sections.items()}
