"""Which stages are unfrozen after warm-up, and when: as the config says, or as candidates for the folds.

``auto`` proposes how many stages to fine-tune by the number of images, and by how close the task is to the backbone's
pretraining. The folds then choose among these candidates and the head alone (``graft.training.selection``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import recall_score
from sklearn.neighbors import NearestNeighbors
from torch import nn

from graft.config.training import FineTuneConfig, TrainingConfig, TrainLoopConfig
from graft.evaluation.evaluate import extract_features
from graft.features.loaders import DatasetInfo
from graft.features.split_model import SplitModel
from graft.training.guards import check_collapsed
from graft.training.history import Phase

NEIGHBOURS = 5
SAMPLE_SIZE = 512
SIMILAR, RELATED = 0.8, 0.5  # lower bounds of the similarity
DEFAULT_FINE_TUNE = FineTuneConfig()
DEFAULT_FRACTION = 0.1  # of the stages, that last_stages unfreezes if the config gives no number


@dataclass(frozen=True)
class Candidate:
    """A recipe that the folds try: after head warm-up, fine-tuning of the stages in ``unfreeze_epochs``.

    ``unfreeze_epochs`` holds the epoch at which each stage is unfrozen, from the output toward the input; it is empty
    for the head alone. With ``stop_after``, training ends after that many epochs.
    """

    name: str
    strategy: str
    fine_tune: FineTuneConfig = DEFAULT_FINE_TUNE
    unfreeze_epochs: tuple[int, ...] = ()
    stop_after: int | None = None

    @property
    def phase(self) -> Phase:
        """The phase of fine-tuning; a candidate without one is the head alone."""
        return replace(Phase.fine_tune(self.fine_tune, self.unfreeze_epochs), stop_after=self.stop_after)


HEAD_ONLY = Candidate("head_only", "head_only")


@dataclass(frozen=True)
class StrategyRule:
    """For a median class of at least ``images_per_class`` images, the fractions of stages that candidates unfreeze.

    They depend on whether the task is ``similar`` or ``related`` to the backbone's, or ``far`` from it.
    """

    images_per_class: int
    similar: tuple[float, ...]
    related: tuple[float, ...]
    far: tuple[float, ...]


# On held-out thirds of the training images of six sets, 0.42 and 0.65 were equally accurate on average, each better on
# some, and 0.25 a little less. Only with many images or a far task is everything unfrozen as well: no features can be
# cached then, so each epoch costs several times as much.
STRATEGY_RULES = (
    StrategyRule(1000, similar=(0.25, 0.42, 0.65), related=(0.42, 0.65, 1.0), far=(0.65, 1.0)),
    StrategyRule(300, similar=(0.25, 0.42, 0.65), related=(0.25, 0.42, 0.65), far=(0.42, 0.65, 1.0)),
    StrategyRule(0, similar=(0.25, 0.42), related=(0.42, 0.65), far=(0.42, 0.65)),
)


def configured_candidate(config: TrainingConfig, stages: int) -> Candidate:
    """The recipe of a strategy that the config sets, for a backbone of ``stages`` stages."""
    fine_tune, strategy = config.fine_tune, config.strategy
    if strategy == "head_only":
        return HEAD_ONLY
    if strategy == "full":
        unfreeze_epochs: tuple[int, ...] = (0,) * stages
    elif strategy == "last_stages":
        unfreeze_epochs = (0,) * (fine_tune.unfrozen_stages or stage_count(DEFAULT_FRACTION, stages))
    else:
        assert strategy == "gradual"
        spaced = evenly_spaced_epochs(fine_tune.unfrozen_stages or stages, fine_tune.epochs)
        unfreeze_epochs = fine_tune.unfreeze_epochs or spaced
    return Candidate(strategy, strategy, fine_tune, unfreeze_epochs)


def propose_candidates(
    fine_tune: FineTuneConfig, stages: int, images_per_class: int, similarity: float
) -> tuple[list[Candidate], str]:
    """The candidates of ``auto`` by ``STRATEGY_RULES``, the cheapest first, and the reason for them."""
    rule = next(rule for rule in STRATEGY_RULES if images_per_class >= rule.images_per_class)
    distance = "similar" if similarity >= SIMILAR else "related" if similarity >= RELATED else "far"
    relation = {"similar": "similar to", "related": "related to", "far": "far from"}[distance]
    reason = (
        f"{images_per_class} images in the median class, and a task {relation} what the backbone was trained on "
        f"(nearest neighbours in its frozen features score {similarity:.2f}; 0 is chance, 1 is perfect)"
    )
    counts = sorted({stage_count(fraction, stages) for fraction in getattr(rule, distance)})
    return [_proposed(fine_tune, count, stages) for count in counts], reason


def _proposed(fine_tune: FineTuneConfig, count: int, stages: int) -> Candidate:
    strategy = "full" if count == stages else "last_stages"
    return Candidate(f"last_{count}_stages" if count < stages else "full", strategy, fine_tune, (0,) * count)


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
