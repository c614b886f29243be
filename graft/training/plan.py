"""The training plan: compute settings, strategy and a table of stages, decided before anything is trained."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import TypeAdapter
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from graft.compute.autotune import autotune, describe
from graft.config.training import ComputeConfig, TrainingConfig, TrainLoopConfig
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
from graft.training.strategy import HEAD_ONLY, Candidate, configured_candidate, measure_similarity, propose_candidates

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
    """The candidates that the folds try, or the recipe that they chose; and why.

    ``candidates`` are in the order of their cost; the first is always the head alone. ``stage_plans`` has the stages of
    each candidate, by its name. ``similarity`` (at most 1; 0 is chance) is measured for strategy ``auto`` only.
    ``compute`` is the section of that name with every ``auto`` decided.
    """

    candidates: list[Candidate]
    reason: str
    images_per_class: int
    similarity: float | None
    stage_plans: dict[str, list[StagePlan]]
    compute: ComputeConfig

    @property
    def is_auto(self) -> bool:
        """Whether the folds choose among the candidates, or follow the config."""
        return self.similarity is not None

    @property
    def recipe(self) -> Candidate:
        """The chosen recipe; before the folds have chosen, the candidate of the highest cost."""
        return self.candidates[-1]

    @property
    def stages(self) -> list[StagePlan]:
        """The stages of the recipe, from input to output."""
        return self.stage_plans[self.recipe.name]

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> TrainingPlan:
        """The inverse of ``record``, also after a round trip through JSON."""
        return TypeAdapter(cls).validate_json(json.dumps(record))

    def record(self) -> dict[str, Any]:
        """The plan as JSON types."""
        record: dict[str, Any] = TypeAdapter(type(self)).dump_python(self, mode="json")
        return record

    @property
    def summary(self) -> str:
        """The candidates or the recipe, and the reason, on one line."""
        names = ", ".join(candidate.name for candidate in self.candidates)
        if len(self.candidates) > 2:
            return f"the folds choose among {names}; {self.reason}"
        trainable = sum(stage.trainable for stage in self.stages)
        total = sum(stage.parameters for stage in self.stages)
        unfrozen, stages = len(self.recipe.unfreeze_epochs), len(self.stages) - 1
        scope = f"{unfrozen} of {stages} stages are unfrozen" if unfrozen else "the backbone stays frozen"
        counts = f"{trainable:,} of {total:,} parameters are trained"
        return f"{self.recipe.strategy}: {scope}, {counts}; {self.reason}"

    @property
    def compute_summary(self) -> str:
        """Precision, device, memory format and threads."""
        return f"computed in {describe(self.compute)}"

    def with_compute(self, config: Config) -> Config:
        """A copy of a training config with the plan's compute settings."""
        return config.model_copy(update={"compute": self.compute})

    def with_recipe(self, recipe: Candidate, reason: str) -> TrainingPlan:
        """The plan once the folds have chosen."""
        candidates = [HEAD_ONLY] if recipe == HEAD_ONLY else [HEAD_ONLY, recipe]
        return replace(self, candidates=candidates, reason=reason)

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
    similarity, reason = None, "set in the config"
    if training.strategy == "auto":
        dataset = DatasetInfo(split.folder(), split.classes, preprocessing_for(model.config))
        similarity = measure_similarity(network, dataset, records, training.train_config)
        proposed, reason = propose_candidates(training.fine_tune, len(names) - 1, images_per_class, similarity)
    else:
        proposed = [configured_candidate(training, len(names) - 1)]
    candidates = [HEAD_ONLY, *(candidate for candidate in proposed if candidate != HEAD_ONLY)]
    phases = {candidate.name: candidate.phase for candidate in candidates} | {
        HEAD_ONLY.name: Phase.warm_up(training.warm_up)
    }
    tables = {name: list_stages(network, phase, training.batch_norm) for name, phase in phases.items()}
    return TrainingPlan(candidates, reason, images_per_class, similarity, tables, training.compute)


def list_stages(network: nn.Module, phase: Phase, batch_norm: BatchNormPolicy) -> list[StagePlan]:
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
