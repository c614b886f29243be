"""What thaws after warm-up, and when: asked for, or chosen from the data.

The choice follows the usual advice on transfer learning: the fewer the images and the nearer the task to what the
backbone has seen, the less of it should move.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import recall_score
from sklearn.neighbors import NearestNeighbors
from torch import nn

from graft.inputs.cut import Cut
from graft.inputs.datasets import ImageSource
from graft.learning.evaluation import head_features
from graft.learning.guards import require_varied
from graft.training_config import LoopConfig, TrainingConfig

NEIGHBOURS = 5
MEASURED_IMAGES = 512
SIMILAR, RELATED = 0.8, 0.5  # of the way from chance to perfect, what frozen features alone tell
SHARE_BY_DEFAULT = 0.1  # of all stages, what the strategy last_stages thaws where no number is given


@dataclass(frozen=True)
class Advice:
    """One row of the table: for classes of at least so many images, the share of all stages that thaw.

    It goes by how similar the task is; where that is ``far``, rates are multiplied by ``far_rate``.
    """

    images_per_class: int
    similar: float
    related: float
    far: float
    far_rate: float = 0.3


# Images of the median class; share of the stages that thaw where the task is similar, related, far.
ADVICE = (
    Advice(1000, similar=0.5, related=1.0, far=1.0),
    Advice(300, similar=0.1, related=0.5, far=1.0),
    Advice(100, similar=0.0, related=0.25, far=0.5),
    Advice(0, similar=0.0, related=0.1, far=0.25),
)


@dataclass(frozen=True)
class Decision:
    """The strategy, the epoch at which each stage thaws (from the output toward the input), and why.

    ``rate_factor`` multiplies the learning rate of fine-tuning.
    """

    strategy: str
    thaw_epochs: tuple[int, ...]
    reason: str
    rate_factor: float = 1.0


def decide(config: TrainingConfig, stages: int, images_per_class: int, similarity: float | None) -> Decision:
    """What thaws of a backbone with so many stages; ``similarity`` (at most 1) is for strategy ``auto`` alone."""
    tune, strategy = config.fine_tune, config.strategy
    if strategy == "head_only":
        return Decision(strategy, (), "asked for")
    if strategy == "full":
        return Decision(strategy, (0,) * stages, "asked for")
    if strategy == "last_stages":
        return Decision(strategy, (0,) * (tune.unfrozen_stages or share_of(SHARE_BY_DEFAULT, stages)), "asked for")
    if strategy == "gradual":
        evenly = spread_out(tune.unfrozen_stages or stages, tune.epochs)
        return Decision(strategy, tune.thaw_epochs or evenly, "asked for")
    assert similarity is not None
    return choose(stages, images_per_class, similarity)


def choose(stages: int, images_per_class: int, similarity: float) -> Decision:
    """Look the strategy up in the table of advice."""
    advice = next(row for row in ADVICE if images_per_class >= row.images_per_class)
    word = "similar" if similarity >= SIMILAR else "related" if similarity >= RELATED else "far"
    count = share_of(getattr(advice, word), stages)
    strategy = "head_only" if count == 0 else "full" if count == stages else "last_stages"
    reason = (
        f"{images_per_class} images in the median class, and a task {word} to what the backbone knows "
        f"(its frozen features tell {similarity:.0%} of the way from chance to perfect)"
    )
    return Decision(strategy, (0,) * count, reason, advice.far_rate if word == "far" else 1.0)


def share_of(share: float, stages: int) -> int:
    """So many stages; more than nothing is at least one."""
    return max(1, round(share * stages)) if share > 0 else 0


def spread_out(thawed: int, epochs: int) -> tuple[int, ...]:
    """The epochs at which stages thaw one after another, over the first two thirds of all epochs."""
    last = max(0, round(epochs * 2 / 3) - 1)
    return tuple(int(epoch) for epoch in np.floor(np.linspace(0, last + 0.999, thawed)))


def measure_similarity(model: nn.Module, source: ImageSource, rows: pd.DataFrame, loop: LoopConfig) -> float:
    """How well frozen features tell the classes apart, from 0 (chance) to 1 (perfect); below 0, worse than chance.

    Each of up to 512 images, or six of each class, is named by the vote of its five nearest neighbours among the
    others, weighed by the cosine of what reaches the head; the mean recall of all classes is scaled so that chance
    is 0.
    """
    each = max(NEIGHBOURS + 1, MEASURED_IMAGES // len(source.classes))
    some = rows.sort_values("sha256").groupby("label").head(each)
    given = head_features(Cut(model, "head", loop, source), some)
    known = some["label"].map(source.classes.index).to_numpy()
    require_varied(torch.from_numpy(given), "the features that reach the head")
    search = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(known) - 1), metric="cosine").fit(given)
    distances, neighbours = search.kneighbors()  # without the image itself
    votes = zip(known[neighbours], 1 - distances, strict=True)
    named = [np.bincount(labels, weights.clip(min=0)).argmax() for labels, weights in votes]
    recall = recall_score(known, named, average="macro", zero_division=0.0)
    chance = 1 / len(np.unique(known))
    return float((recall - chance) / (1 - chance))
