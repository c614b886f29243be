"""Which stages are unfrozen after warm-up, and when: as the config says, or chosen from the data.

``auto`` proposes how many stages to fine-tune by the number of images, and by how close the task is to the backbone's
pretraining. The folds then decide whether to fine-tune at all (``graft.training.selection``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import recall_score
from sklearn.neighbors import NearestNeighbors
from torch import nn

from graft.config.training import TrainingConfig, TrainLoopConfig
from graft.evaluation.evaluate import extract_features
from graft.features.loaders import DatasetInfo
from graft.features.split_model import SplitModel
from graft.training.guards import check_collapsed

NEIGHBOURS = 5
SAMPLE_SIZE = 512
SIMILAR, RELATED = 0.8, 0.5  # lower bounds of the similarity
DEFAULT_FRACTION = 0.1  # of the stages, that last_stages unfreezes if the config gives no number
REQUESTED = "set in the config"


@dataclass(frozen=True)
class StrategyRule:
    """For a median class of at least ``images_per_class`` images, the fraction of stages to unfreeze.

    The fraction depends on whether the task is ``similar`` or ``related`` to the backbone's, or ``far`` from it.
    """

    images_per_class: int
    similar: float
    related: float
    far: float


# Fine-tuning about two thirds of the stages is a candidate for every task: whether it is better than the head alone is
# left to the folds (graft/training/selection.py). Only with many images or a far task is more unfrozen.
STRATEGY_RULES = (
    StrategyRule(1000, similar=0.65, related=1.0, far=1.0),
    StrategyRule(300, similar=0.65, related=0.65, far=1.0),
    StrategyRule(0, similar=0.65, related=0.65, far=0.65),
)


@dataclass(frozen=True)
class StrategyDecision:
    """The strategy, the epoch at which each stage is unfrozen (from the output toward the input), and the reason."""

    strategy: str
    unfreeze_epochs: tuple[int, ...]
    reason: str


def decide(config: TrainingConfig, stages: int, images_per_class: int, similarity: float | None) -> StrategyDecision:
    """The decision for a backbone of ``stages`` stages; only ``auto`` needs the ``similarity`` (at most 1)."""
    fine_tune, strategy = config.fine_tune, config.strategy
    if strategy == "head_only":
        return StrategyDecision(strategy, (), REQUESTED)
    if strategy == "full":
        return StrategyDecision(strategy, (0,) * stages, REQUESTED)
    if strategy == "last_stages":
        count = fine_tune.unfrozen_stages or stage_count(DEFAULT_FRACTION, stages)
        return StrategyDecision(strategy, (0,) * count, REQUESTED)
    if strategy == "gradual":
        spaced = evenly_spaced_epochs(fine_tune.unfrozen_stages or stages, fine_tune.epochs)
        return StrategyDecision(strategy, fine_tune.unfreeze_epochs or spaced, REQUESTED)
    assert similarity is not None
    return choose(stages, images_per_class, similarity)


def choose(stages: int, images_per_class: int, similarity: float) -> StrategyDecision:
    """The decision of ``auto``, by ``STRATEGY_RULES``."""
    rule = next(rule for rule in STRATEGY_RULES if images_per_class >= rule.images_per_class)
    distance = "similar" if similarity >= SIMILAR else "related" if similarity >= RELATED else "far"
    count = stage_count(getattr(rule, distance), stages)
    strategy = "head_only" if count == 0 else "full" if count == stages else "last_stages"
    relation = {"similar": "similar to", "related": "related to", "far": "far from"}[distance]
    reason = (
        f"{images_per_class} images in the median class, and a task {relation} what the backbone was trained on "
        f"(nearest neighbours in its frozen features score {similarity:.2f}; 0 is chance, 1 is perfect)"
    )
    return StrategyDecision(strategy, (0,) * count, reason)


def stage_count(fraction: float, stages: int) -> int:
    """A fraction of the stages, rounded; at least one unless the fraction is 0."""
    return max(1, round(fraction * stages)) if fraction > 0 else 0


def evenly_spaced_epochs(stages: int, epochs: int) -> tuple[int, ...]:
    """The epochs at which ``stages`` stages are unfrozen one by one, over the first two thirds of ``epochs``."""
    last = max(0, round(epochs * 2 / 3) - 1)
    return tuple(int(epoch) for epoch in np.floor(np.linspace(0, last + 0.999, stages)))


def measure_similarity(
    model: nn.Module, dataset: DatasetInfo, records: pd.DataFrame, train_config: TrainLoopConfig
) -> float:
    """How well frozen features classify the task: 1 is perfect, 0 is chance, below 0 is worse than chance.

    Up to 512 images, or six of each class, are classified by their five nearest neighbours among the others,
    weighted by cosine similarity of the head's inputs. The macro recall is rescaled so that chance is 0.
    """
    per_class = max(NEIGHBOURS + 1, SAMPLE_SIZE // len(dataset.classes))
    sample = records.sort_values("sha256").groupby("label").head(per_class)
    features = extract_features(SplitModel(model, "head", train_config, dataset), sample)
    labels = dataset.class_indices(sample["label"])
    check_collapsed(torch.from_numpy(features), "the features that reach the head")
    search = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(labels) - 1), metric="cosine").fit(features)
    distances, neighbours = search.kneighbors()  # without the image itself
    votes = zip(labels[neighbours], 1 - distances, strict=True)
    predicted = [np.bincount(classes, weights.clip(min=0)).argmax() for classes, weights in votes]
    recall = recall_score(labels, predicted, average="macro", zero_division=0.0)
    chance = 1 / len(np.unique(labels))
    return float((recall - chance) / (1 - chance))
