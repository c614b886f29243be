"""The promotion gate: a challenger becomes champion only if it passes every condition."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from graft.config.parameters import GateConfig
from graft.errors import PromotionRefusedError


@dataclass(frozen=True)
class Condition:
    """One condition of the gate: its description, the required and the actual value, and whether it holds."""

    requirement: str
    required: str
    actual: str
    passed: bool


@dataclass(frozen=True)
class Comparison:
    """Challenger and champion on the same images, which neither was trained on.

    Accuracies are 0..1. ``only_challenger_right`` and ``only_champion_right`` count the images that one model
    classifies correctly and the other does not. The champion's fields are ``None`` if there is no champion yet.
    """

    challenger_version: str
    champion_version: str | None
    images: int
    challenger_accuracy: float
    champion_accuracy: float | None
    only_challenger_right: int = 0
    only_champion_right: int = 0

    def to_metrics(self) -> dict[str, float]:
        """The metrics by their names in MLflow."""
        champion = {} if self.champion_accuracy is None else {"gate/champion_accuracy": self.champion_accuracy}
        challenger = {"gate/images": float(self.images), "gate/challenger_accuracy": self.challenger_accuracy}
        return challenger | champion | {"gate/p_worse": self.p_worse}

    @property
    def p_worse(self) -> float:
        """One-sided exact McNemar test: the probability of at least this many losses if both are equally good."""
        disagreements = self.only_challenger_right + self.only_champion_right
        if disagreements == 0:
            return 1.0
        return float(binomtest(self.only_champion_right, disagreements, 0.5, alternative="greater").pvalue)


@dataclass(frozen=True)
class Verdict:
    """The gate's result: the comparison, and every condition."""

    comparison: Comparison
    conditions: list[Condition]

    @property
    def passed(self) -> bool:
        """Whether every condition holds."""
        return all(condition.passed for condition in self.conditions)

    def check_passed(self) -> None:
        """Raise ``PromotionRefusedError``, which lists every failed condition, unless all hold."""
        failed = [
            f"{condition.requirement}: required {condition.required}, found {condition.actual}"
            for condition in self.conditions
            if not condition.passed
        ]
        if failed:
            version = self.comparison.challenger_version
            raise PromotionRefusedError(f"version {version} is not promoted: {'; '.join(failed)}.")


def compare(
    versions: tuple[str, str | None], labels: np.ndarray, challenger: np.ndarray, champion: np.ndarray | None
) -> Comparison:
    """Compare the predicted classes of both models, int64 ``[images]``, with the labels.

    ``versions`` are the challenger's and the champion's.
    """
    challenger_correct = challenger == labels
    challenger_accuracy = float(challenger_correct.mean()) if len(labels) else 0.0
    if champion is None:
        return Comparison(*versions, len(labels), challenger_accuracy, None)
    champion_correct = champion == labels
    champion_accuracy = float(champion_correct.mean()) if len(labels) else 0.0
    return Comparison(
        *versions, len(labels), challenger_accuracy, champion_accuracy,
        int((challenger_correct & ~champion_correct).sum()), int((champion_correct & ~challenger_correct).sum()),
    )  # fmt: skip


def apply_gate(comparison: Comparison, config: GateConfig) -> Verdict:
    """Check every condition of the gate; a first champion is compared with the thresholds only."""
    conditions = [
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
        conditions.append(
            Condition(
                "not clearly worse than the champion (exact McNemar test)",
                f"p of at least {config.significance:g}",
                f"p = {comparison.p_worse:.3g} ({comparison.challenger_accuracy:.3f} against "
                f"{comparison.champion_accuracy:.3f})",
                comparison.p_worse >= config.significance,
            )
        )
    return Verdict(comparison, conditions)
