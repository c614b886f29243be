"""The training plan: compute settings, strategy and a table of stages, decided before anything is trained."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from graft.compute.autotune import autotune, describe
from graft.config.training import ComputeConfig, FineTuneConfig, TrainingConfig, TrainLoopConfig, WarmUpConfig
from graft.data.splits import Split
from graft.features.loaders import DatasetInfo
from graft.models import lora
from graft.models.backbones import build_model, preprocessing_for
from graft.models.freezing import BatchNormPolicy, freeze_all_but, is_folded, stays_in_eval
from graft.models.stages import named_stage_parameters, stage_names, stage_of
from graft.models.weights import FingerprintedModel
from graft.seeds import derive_seed
from graft.training.history import Phase
from graft.training.optimization import layer_lrs
from graft.training.strategy import StrategyDecision, decide, measure_similarity

Config = TypeVar("Config", bound=TrainLoopConfig)
COLUMNS = ("stage", "parameters", "trainable", "unfrozen at epoch", "learning rate", "batch norms")


@dataclass(frozen=True)
class StagePlan:
    """One stage in the last phase: the epoch that unfreezes it (from 1; 0 is never), and its peak learning rate.

    ``trainable`` counts its trainable parameters, or those of its adapters. ``batch_norms`` says what happens to
    their statistics; empty if there are none.
    """

    stage: str
    parameters: int
    trainable: int
    unfreeze_epoch: int
    learning_rate: float
    batch_norms: str


@dataclass(frozen=True)
class TrainingPlan:
    """Which stages are unfrozen, when, at which learning rates, and why.

    ``similarity`` (at most 1; 0 is chance) is measured for strategy ``auto`` only. ``compute`` is the section of
    that name with every ``auto`` decided.
    """

    decision: StrategyDecision
    images_per_class: int
    similarity: float | None
    stages: list[StagePlan]
    compute: ComputeConfig

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> TrainingPlan:
        """The inverse of ``record``, also after a round trip through JSON."""
        decision = record["decision"]
        decision = StrategyDecision(**decision | {"unfreeze_epochs": tuple(decision["unfreeze_epochs"])})
        stages = [StagePlan(**stage) for stage in record["stages"]]
        compute = ComputeConfig(**record["compute"])
        return cls(**record | {"decision": decision, "stages": stages, "compute": compute})

    def record(self) -> dict[str, Any]:
        """The plan as JSON types."""
        return asdict(self) | {"compute": self.compute.model_dump()}

    @property
    def summary(self) -> str:
        """Strategy, number of unfrozen stages and trainable parameters, and the reason, on one line."""
        trainable = sum(stage.trainable for stage in self.stages)
        total = sum(stage.parameters for stage in self.stages)
        unfrozen, stages = len(self.decision.unfreeze_epochs), len(self.stages) - 1
        scope = f"{unfrozen} of {stages} stages are unfrozen" if unfrozen else "the backbone stays frozen"
        counts = f"{trainable:,} of {total:,} parameters are trained"
        return f"{self.decision.strategy}: {scope}, {counts}; {self.decision.reason}"

    @property
    def compute_summary(self) -> str:
        """Precision, device, memory format and threads."""
        return f"computed in {describe(self.compute)}"

    def with_compute(self, config: Config) -> Config:
        """A copy of a training config with the plan's compute settings."""
        return config.model_copy(update={"compute": self.compute})

    def with_reason(self, reason: str) -> TrainingPlan:
        """The plan with another reason appended to that of its decision."""
        return replace(self, decision=replace(self.decision, reason=f"{self.decision.reason}; {reason}"))

    def without_fine_tuning(self, warm_up: WarmUpConfig, reason: str) -> TrainingPlan:
        """The plan for the head alone."""
        head_only = [
            replace(stage, unfreeze_epoch=1, learning_rate=warm_up.learning_rate)
            if stage.stage == "head"
            else StagePlan(stage.stage, stage.parameters, 0, 0, 0.0, "statistics frozen" if stage.batch_norms else "")
            for stage in self.stages
        ]
        return replace(self, decision=StrategyDecision("head_only", (), reason), stages=head_only)

    def table(self) -> list[tuple[str, ...]]:
        """One row of text for each stage, from input to output, under ``COLUMNS``."""
        return [
            (
                stage.stage,
                f"{stage.parameters:,}",
                f"{stage.trainable:,}",
                str(stage.unfreeze_epoch) if stage.unfreeze_epoch else "never",
                f"{stage.learning_rate:.1e}" if stage.unfreeze_epoch else "",
                stage.batch_norms,
            )
            for stage in self.stages
        ]

    def describe(self) -> str:
        """The summary and the table as lines of text."""
        lines = [COLUMNS, *self.table()]
        widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        return "\n".join([self.summary, self.compute_summary, *(line.rstrip() for line in table)])


def make_plan(split: Split, model: FingerprintedModel, training: TrainingConfig, seed: int) -> TrainingPlan:
    """Decide the compute settings and the strategy that the config leaves ``auto``, and list the stages.

    For strategy ``auto``, the similarity is measured on features of the training images, which fills the feature cache.
    """
    records = split.records("train")
    network = build_model(model.config, len(split.classes), derive_seed(seed, "head"))
    names = stage_names(network)
    training = training.model_copy(update={"compute": autotune(training.compute, network)})
    images_per_class = int(records["label"].value_counts().median())
    similarity = None
    if training.strategy == "auto":
        dataset = DatasetInfo(split.folder(), split.classes, preprocessing_for(model.config))
        similarity = measure_similarity(network, dataset, records, training.train_config)
    decision = decide(training, len(names) - 1, images_per_class, similarity)
    fine_tunes = bool(decision.unfreeze_epochs)
    phase = fine_tuning_phase(training.fine_tune, decision) if fine_tunes else Phase.warm_up(training.warm_up)
    stages = stage_plans(network, phase, training.batch_norm)
    return TrainingPlan(decision, images_per_class, similarity, stages, training.compute)


def fine_tuning_phase(config: FineTuneConfig, decision: StrategyDecision) -> Phase:
    """The fine-tuning phase of a decision."""
    return Phase.fine_tune(config, decision.unfreeze_epochs)


def stage_plans(network: nn.Module, phase: Phase, batch_norm: BatchNormPolicy) -> list[StagePlan]:
    """The plan of each stage for a phase, from input to output."""
    names = stage_names(network)
    unfrozen = [*names[len(names) - 1 - len(phase.unfreeze_epochs) : -1], "head"]
    lrs = layer_lrs(unfrozen, phase.learning_rate, phase.layer_decay)
    epochs = dict(zip(reversed(names), (0, *phase.unfreeze_epochs), strict=False))
    policy: BatchNormPolicy = "all_frozen" if phase.lora else batch_norm
    # Counted on a copy that is prepared as training does it: adapters change which parameters are trainable.
    trained = copy.deepcopy(network)
    if phase.lora:
        lora.inject(trained, unfrozen, phase.lora, seed=0)
    freeze_all_but(trained, len(phase.unfreeze_epochs))
    return [
        StagePlan(
            stage,
            sum(value.numel() for _, value in named_stage_parameters(network, stage)),
            sum(value.numel() for _, value in named_stage_parameters(trained, stage) if value.requires_grad),
            epochs[stage] + 1 if stage in unfrozen else 0,
            lrs.get(stage, 0.0),
            _describe_batch_norms(network, stage, stage in unfrozen, policy),
        )
        for stage in names
    ]


def _describe_batch_norms(network: nn.Module, stage: str, unfrozen: bool, policy: BatchNormPolicy) -> str:
    norms = [
        module
        for name, module in network.named_modules()
        if name and stage_of(name) == stage and isinstance(module, _BatchNorm)
    ]
    if not norms:
        return ""
    if unfrozen and policy == "frozen_stages" and all(is_folded(norm) for norm in norms):
        return "statistics frozen (folded)"
    frozen = all(stays_in_eval(norm, unfrozen, policy) for norm in norms)
    return "statistics frozen" if frozen else "statistics learned"
