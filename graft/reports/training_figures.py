"""Figures of a training: learning curves, candidates, folds, and the learning-rate finder."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from graft.errors import printable
from graft.reports.figures import BLUE, GREEN, INK, ORANGE, QUIET, style_axes
from graft.training.cross_validation import CrossValidation
from graft.training.history import EpochMetrics
from graft.training.lr_finder import LRFinderResult


def learning_curves(warm_up: list[EpochMetrics], fine_tune: list[EpochMetrics]) -> Figure:
    """Losses (left), accuracy and macro-F1 on the folds' test images (right) over the epochs of both phases.

    Without validation metrics, as of a final model alone, the training loss is all there is to show.
    """
    epochs = [*warm_up, *fine_tune]
    x = np.arange(1, len(epochs) + 1)
    panels = 2 if any(epoch.val_loss is not None for epoch in epochs) else 1
    figure = Figure(figsize=(4.5 * panels, 3.4))
    margins = {"left": 0.12 / panels, "right": 1 - 0.04 / panels, "bottom": 0.14, "top": 0.91}
    left, *right = figure.subplots(1, panels, squeeze=False, gridspec_kw=margins)[0]
    style_axes(left, "Loss (nats)")
    _line(left, x, [epoch.train_loss for epoch in epochs], ORANGE, "training")
    for axes in right:
        style_axes(axes, "Test images of the folds")
        _line(left, x, [epoch.val_loss for epoch in epochs], BLUE, "test images of the folds")
        _line(axes, x, [epoch.val_accuracy for epoch in epochs], GREEN, "accuracy")
        _line(axes, x, [epoch.val_macro_f1 for epoch in epochs], BLUE, "macro-F1")
    for axes in (left, *right):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
        if fine_tune and warm_up:
            axes.axvline(len(warm_up) + 0.5, color=QUIET, linestyle=":", linewidth=1)
            axes.text(len(warm_up) + 0.55, 1.0, " fine-tuning", color=QUIET, fontsize=8, va="top",
                      transform=axes.get_xaxis_transform())  # fmt: skip
        axes.legend(frameon=False, fontsize=8)
    return figure


def candidates(result: CrossValidation) -> Figure:
    """The log loss of each candidate minus that of the chosen one, with standard errors, and what became of it."""
    scores = result.candidates[::-1]
    figure = Figure(figsize=(8, 0.9 + 0.55 * len(scores)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=QUIET, linestyle=":", linewidth=1)
    for row, score in enumerate(scores):
        accuracy = f"accuracy {np.mean(score.accuracies):.3f}, " if score.accuracies else ""
        text = f"{accuracy}{score.epochs} epochs, {score.seconds:.0f} s: {score.outcome}"
        if score.difference:
            colour = GREEN if score.outcome == "chosen" else ORANGE
            axes.errorbar(score.difference.mean, row, xerr=score.difference.standard_error, fmt="o", color=colour)
        axes.annotate(printable(text), (0, row), xytext=(4, 9), textcoords="offset points", fontsize=8, color=INK,
                      xycoords=axes.get_yaxis_transform())  # fmt: skip
    axes.set_yticks(range(len(scores)), [score.name for score in scores], fontsize=8)
    axes.set_ylim(-0.5, len(scores) - 0.3)
    axes.set_xlabel("log loss minus that of the chosen recipe (nats)", fontsize=8)
    style_axes(axes, "Candidates")
    return figure


def folds(result: CrossValidation) -> Figure:
    """Accuracy of the head alone and of the chosen recipe on each fold, and (last) their means."""
    head_only = [*result.head_only_accuracies, float(np.mean(result.head_only_accuracies))]
    chosen = [*result.accuracies, float(np.mean(result.accuracies))]
    x = np.arange(len(chosen))
    figure = Figure(figsize=(5.5, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(x[-1] - 0.5, x[-1] + 0.5, color=QUIET, alpha=0.12, linewidth=0)
    axes.vlines(x, head_only, chosen, color=QUIET, linewidth=1.5)
    # A ring, which stays visible around the dot if fine-tuning changed nothing or was not chosen.
    axes.scatter(x, head_only, s=80, color="white", edgecolors=ORANGE, label="head only", zorder=2)
    axes.scatter(x, chosen, color=GREEN, label="chosen recipe", zorder=3)
    gain = 100 * (chosen[-1] - head_only[-1])
    axes.annotate(f"{gain:+.1f} points", (x[-1], max(chosen[-1], head_only[-1])), xytext=(0, 9), ha="center",
                  textcoords="offset points", color=INK, fontsize=8)  # fmt: skip
    axes.set_xticks(x, [*(f"fold {k}" for k in x[:-1]), "mean"])
    axes.set_xlim(-0.5, len(x) - 0.5)
    axes.margins(y=0.15)
    low, high = result.accuracy.low, result.accuracy.high
    style_axes(axes, f"Accuracy {result.accuracy.mean:.3f} (95 % interval {low:.3f} to {high:.3f})")
    axes.legend(frameon=False, fontsize=8)
    return figure


def lr_finder_curve(result: LRFinderResult, key: str) -> Figure:
    """Loss over learning rate, the suggestion marked; ``key`` is its key in the config."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(result.learning_rates, result.losses, color=BLUE, linewidth=1.5)
    loss = np.interp(np.log(result.suggestion), np.log(result.learning_rates), result.losses)
    axes.axvline(result.suggestion, color=QUIET, linestyle=":", linewidth=1)
    axes.scatter([result.suggestion], [loss], color=ORANGE, zorder=3)
    axes.annotate(f" {result.suggestion:.1e}", (result.suggestion, loss), color=INK, fontsize=9, va="bottom")
    axes.set(xscale="log", xlabel=key, ylabel="training loss (nats)")
    axes.xaxis.set_major_formatter("{x:.0e}")
    axes.xaxis.set_minor_formatter("")
    style_axes(axes, "Suggested: a tenth of the learning rate with the lowest loss")
    return figure


def _line(axes: Axes, x: np.ndarray, y: list[float | None], colour: str, label: str) -> None:
    axes.plot(x, np.array(y, dtype=float), color=colour, marker="o", markersize=3, linewidth=1.5, label=label)
