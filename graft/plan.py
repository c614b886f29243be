"""What will be trained, settled and shown before anything is."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from graft.compute.trial import fastest, in_words
from graft.data.splits import Split
from graft.inputs.datasets import ImageSource
from graft.learning.history import Phase
from graft.learning.optimization import stage_rates
from graft.learning.strategy import Decision, decide, measure_similarity
from graft.networks import lora
from graft.networks.backbones import build, named_stage_parameters, preprocessing, stage_of, stages
from graft.networks.freezing import BatchNormPolicy, freeze_all_but, is_folded, stays_in_eval
from graft.networks.weights import PinnedModel
from graft.seeds import derive_seed
from graft.training_config import ComputeConfig, FineTuneConfig, LoopConfig, TrainingConfig

Loop = TypeVar("Loop", bound=LoopConfig)
COLUMNS = ("stage", "parameters", "trainable", "thaws at epoch", "learning rate", "batch norms")


@dataclass(frozen=True)
class StagePlan:
    """One stage in the last phase: the epoch at which it thaws (from 1; 0 never), and its peak learning rate.

    ``trainable`` counts those of its parameters that move, or those of the adapters beside them.
    ``batch_norms`` says whether their statistics are kept or learned; empty where there are none.
    """

    stage: str
    parameters: int
    trainable: int
    thaw_epoch: int
    learning_rate: float
    batch_norms: str


@dataclass(frozen=True)
class TrainingPlan:
    """What thaws, when, how fast and why.

    ``similarity`` (at most 1; 0 is chance) says how much of the task frozen features solve; it is measured for the
    strategy ``auto`` alone. ``compute`` is the section of that name, with nothing left to be tried.
    """

    decision: Decision
    images_per_class: int
    similarity: float | None
    stages: list[StagePlan]
    compute: ComputeConfig

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> TrainingPlan:
        """The plan of a ``record``, which may have been through JSON."""
        decision = record["decision"]
        decision = Decision(**decision | {"thaw_epochs": tuple(decision["thaw_epochs"])})
        stages = [StagePlan(**stage) for stage in record["stages"]]
        compute = ComputeConfig(**record["compute"])
        return cls(**record | {"decision": decision, "stages": stages, "compute": compute})

    def record(self) -> dict[str, Any]:
        """All of it in JSON's own types."""
        return asdict(self) | {"compute": self.compute.model_dump()}

    @property
    def verdict(self) -> str:
        """The strategy and why, on one line."""
        moving = sum(stage.trainable for stage in self.stages)
        total = sum(stage.parameters for stage in self.stages)
        thawed = len(self.decision.thaw_epochs)
        what = f"{thawed} of {len(self.stages) - 1} stages thaw" if thawed else "the backbone stays frozen"
        return f"{self.decision.strategy}: {what}, {moving:,} of {total:,} parameters move; {self.decision.reason}"

    @property
    def how(self) -> str:
        """Precision, device, layout and threads."""
        return f"computed in {in_words(self.compute)}"

    def settled(self, loop: Loop) -> Loop:
        """The config, computed as was settled."""
        return loop.model_copy(update={"compute": self.compute})

    def rows(self) -> list[tuple[str, ...]]:
        """The table of stages as text, from input to output, under ``COLUMNS``."""
        return [
            (
                one.stage,
                f"{one.parameters:,}",
                f"{one.trainable:,}",
                str(one.thaw_epoch) if one.thaw_epoch else "never",
                f"{one.learning_rate:.1e}" if one.thaw_epoch else "",
                one.batch_norms,
            )
            for one in self.stages
        ]

    def in_words(self) -> str:
        """The verdict and the table as lines of text."""
        lines = [COLUMNS, *self.rows()]
        widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        return "\n".join([self.verdict, self.how, *(line.rstrip() for line in table)])


def make_plan(root: Path, split: Split, model: PinnedModel, training: TrainingConfig, seed: int) -> TrainingPlan:
    """Choose how to compute and the strategy, where that is left open, and say what it means for each stage."""
    rows = split.rows("train")
    network = build(model.config, len(split.classes), derive_seed(seed, "head"))
    names = stages(network)
    training = training.model_copy(update={"compute": fastest(training.compute, network)})
    per_class = int(rows["label"].value_counts().median())
    similarity = None
    if training.strategy == "auto":
        source = ImageSource(root, split.classes, preprocessing(model.config))
        similarity = measure_similarity(network, source, rows, training.loop)
    decision = decide(training, len(names) - 1, per_class, similarity)
    thaws = bool(decision.thaw_epochs)
    phase = fine_tuning(training.fine_tune, decision) if thaws else Phase.warm_up(training.warm_up)
    table = stage_plans(network, phase, training.batch_norm)
    return TrainingPlan(decision, per_class, similarity, table, training.compute)


def fine_tuning(config: FineTuneConfig, decision: Decision) -> Phase:
    """The phase of fine-tuning that a decision means."""
    return Phase.fine_tune(config, decision.thaw_epochs, decision.rate_factor)


def stage_plans(network: nn.Module, phase: Phase, batch_norm: BatchNormPolicy) -> list[StagePlan]:
    """What a phase does with each stage, from input to output."""
    names = stages(network)
    thawed = [*names[len(names) - 1 - len(phase.thaw_epochs) : -1], "head"]
    rates = stage_rates(thawed, phase.learning_rate, phase.stage_decay)
    epochs = dict(zip(reversed(names), (0, *phase.thaw_epochs), strict=False))
    policy: BatchNormPolicy = "all_frozen" if phase.lora else batch_norm
    trained = copy.deepcopy(network)
    if phase.lora:
        lora.inject(trained, thawed, phase.lora, seed=0)
    freeze_all_but(trained, len(phase.thaw_epochs))
    return [
        StagePlan(
            stage,
            sum(value.numel() for _, value in named_stage_parameters(network, stage)),
            sum(value.numel() for _, value in named_stage_parameters(trained, stage) if value.requires_grad),
            epochs[stage] + 1 if stage in thawed else 0,
            rates.get(stage, 0.0),
            _batch_norms(network, stage, stage in thawed, policy),
        )
        for stage in names
    ]


def _batch_norms(network: nn.Module, stage: str, thaws: bool, policy: BatchNormPolicy) -> str:
    norms = [
        module for name, module in network.named_modules()
        if name and stage_of(name) == stage and isinstance(module, _BatchNorm)
    ]  # fmt: skip
    if not norms:
        return ""
    if thaws and policy == "frozen_stages" and all(is_folded(norm) for norm in norms):
        return "statistics kept (folded)"
    kept = all(stays_in_eval(norm, thaws, policy) for norm in norms)
    return "statistics kept" if kept else "statistics learned"
