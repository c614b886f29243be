"""The gate: a challenger becomes champion only on evidence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from graft.config import GateConfig
from graft.errors import PromotionRefusedError


@dataclass(frozen=True)
class Condition:
    """One thing that must hold: what it asks, what is required, what was found."""

    asks: str
    required: str
    actual: str
    passed: bool


@dataclass(frozen=True)
class Comparison:
    """Challenger and champion on the same images, which neither was trained on.

    ``only_challenger_right`` and ``only_champion_right`` count the images that one names right and the
    other wrong. The champion's fields are ``None`` where there is no champion yet.
    """

    challenger_version: str
    champion_version: str | None
    images: int
    challenger_accuracy: float
    champion_accuracy: float | None
    only_challenger_right: int = 0
    only_champion_right: int = 0

    def named(self) -> dict[str, float]:
        """The metrics under their names in MLflow."""
        champion = {} if self.champion_accuracy is None else {"gate/champion_accuracy": self.champion_accuracy}
        mine = {"gate/images": float(self.images), "gate/challenger_accuracy": self.challenger_accuracy}
        return mine | champion | {"gate/p_worse": self.p_worse}

    @property
    def p_worse(self) -> float:
        """One-sided exact McNemar test: how likely so many lost images are if both models were equally good."""
        disagree = self.only_challenger_right + self.only_champion_right
        if disagree == 0:
            return 1.0
        return float(binomtest(self.only_champion_right, disagree, 0.5, alternative="greater").pvalue)


@dataclass(frozen=True)
class Verdict:
    """What the gate said: the comparison, and every condition."""

    comparison: Comparison
    conditions: list[Condition]

    @property
    def passed(self) -> bool:
        """Whether every condition holds."""
        return all(condition.passed for condition in self.conditions)

    def require_passed(self) -> None:
        """Raise ``PromotionRefusedError`` that lists every condition which failed."""
        failed = [
            f"{one.asks}: required {one.required}, found {one.actual}" for one in self.conditions if not one.passed
        ]
        if failed:
            version = self.comparison.challenger_version
            raise PromotionRefusedError(f"version {version} is not promoted: {'; '.join(failed)}.")


def compare(
    versions: tuple[str, str | None], labels: np.ndarray, challenger: np.ndarray, champion: np.ndarray | None
) -> Comparison:
    """Compare predicted classes int64 ``[images]`` with the labels, image by image."""
    right = challenger == labels
    accuracy = float(right.mean()) if len(labels) else 0.0
    if champion is None:
        return Comparison(versions[0], versions[1], len(labels), accuracy, None)
    also = champion == labels
    return Comparison(
        *versions, len(labels), accuracy, float(also.mean()) if len(labels) else 0.0,
        int((right & ~also).sum()), int((also & ~right).sum()),
    )  # fmt: skip


def judge(comparison: Comparison, config: GateConfig) -> Verdict:
    """Hold a comparison against every condition of the gate."""
    found = [
        Condition(
            "images that neither model was trained on",
            f"at least {config.min_images}",
            str(comparison.images),
            comparison.images >= config.min_images,
        ),
        Condition(
            "accuracy of the challenger",
            f"at least {config.min_accuracy:.3f}",
            f"{comparison.challenger_accuracy:.3f}",
            comparison.challenger_accuracy >= config.min_accuracy,
        ),
    ]
    if comparison.champion_accuracy is not None:
        found.append(
            Condition(
                "not clearly worse than the champion (exact McNemar test)",
                f"p of at least {config.significance:g}",
                f"p = {comparison.p_worse:.3g} ({comparison.challenger_accuracy:.3f} against "
                f"{comparison.champion_accuracy:.3f})",
                comparison.p_worse >= config.significance,
            )
        )
    return Verdict(comparison, found)
