"""Figures for MLflow and for ZenML's dashboard."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from PIL import Image

from graft.cross_validation import CrossValidation
from graft.data.thumbnails import small
from graft.learning.history import EpochMetrics
from graft.learning.metrics import Predictions
from graft.rate_finder import RateCurve

mpl.rcParams["text.parse_math"] = False  # a class may be called $x$
INK, QUIET = "#1b2a33", "#8a979e"
GREEN, ORANGE, BLUE = "#2f7d4f", "#d9822b", "#3b6ea5"
SHEET_COLUMNS, SHEET_ROWS = 6, 4


def as_image(figure: Figure, dpi: int = 110) -> Image.Image:
    """The figure as pixels, drawn once: ``Figure.savefig`` draws a figure with a layout twice."""
    figure.set_dpi(dpi)
    figure.set_facecolor("white")  # whatever a user's own style says
    pixels, size = FigureCanvasAgg(figure).print_to_buffer()  # type: ignore[no-untyped-call]
    return Image.frombytes("RGBA", size, pixels).convert("RGB")


def as_png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as the bytes of a PNG."""
    buffer = io.BytesIO()
    as_image(figure, dpi).save(buffer, "PNG")
    return buffer.getvalue()


def learning_curves(warm_up: list[EpochMetrics], fine_tune: list[EpochMetrics]) -> Figure:
    """Losses on the left, validation accuracy and macro-F1 on the right, over the epochs of both phases."""
    epochs = [*warm_up, *fine_tune]
    x = np.arange(1, len(epochs) + 1)
    figure = Figure(figsize=(9, 3.4))
    left, right = figure.subplots(1, 2, gridspec_kw={"left": 0.06, "right": 0.98, "bottom": 0.14, "top": 0.91})
    _line(left, x, [epoch.train_loss for epoch in epochs], ORANGE, "training")
    _line(left, x, [epoch.val_loss for epoch in epochs], BLUE, "validation")
    _line(right, x, [epoch.val_accuracy for epoch in epochs], GREEN, "accuracy")
    _line(right, x, [epoch.val_macro_f1 for epoch in epochs], BLUE, "macro-F1")
    for axes, title in ((left, "Loss (nats)"), (right, "On validation images")):
        dress(axes, title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
        if fine_tune and warm_up:
            axes.axvline(len(warm_up) + 0.5, color=QUIET, linestyle=":", linewidth=1)
            axes.text(len(warm_up) + 0.55, 1.0, " fine-tuning", color=QUIET, fontsize=8, va="top",
                      transform=axes.get_xaxis_transform())  # fmt: skip
        axes.legend(frameon=False, fontsize=8)
    return figure


def confusion(said: Predictions) -> Figure:
    """Images of each true class (rows) by predicted class (columns); empty cells are left blank."""
    counts = said.confusion()
    side = min(3 + 0.38 * len(said.classes), 14)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Greens", vmin=0, vmax=1)
    if len(said.classes) <= 30:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.5 else INK
                axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(
        range(len(said.classes)), said.classes, rotation=90 if len(said.classes) > 6 else 0, fontsize=8
    )
    axes.set_yticks(range(len(said.classes)), said.classes, fontsize=8)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(f"{said.accuracy:.1%} of {len(said.labels)} images are named right", color=INK, fontsize=10)
    return figure


def reliability(said: Predictions) -> Figure:
    """How often the model is right (height) at each confidence; the closer to the diagonal, the better."""
    confidence, right, count = said.reliability()
    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=QUIET, linestyle=":", linewidth=1)
    shown = count > 0
    axes.bar(
        (np.arange(len(count)) + 0.5) / len(count),
        np.where(shown, right, 0),
        width=0.9 / len(count),
        color=GREEN,
        alpha=0.35,
    )
    sizes = 15 + 200 * count[shown] / max(count.max(), 1)
    axes.scatter(confidence[shown], right[shown], s=sizes, color=GREEN, zorder=3)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence", ylabel="share right")
    dress(axes, f"Calibration error {said.ece:.3f} (temperature {said.temperature:.2f})")
    return figure


def folds(result: CrossValidation) -> Figure:
    """Accuracy of each fold after warm-up and at the end."""
    x = np.arange(len(result.accuracies))
    figure = Figure(figsize=(5.5, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.vlines(x, result.head_only_accuracies, result.accuracies, color=QUIET, linewidth=1.5)
    # A ring is seen around the other's dot, where fine-tuning changed nothing or was left out.
    axes.scatter(
        x, result.head_only_accuracies, s=80, color="white", edgecolors=ORANGE, label="head only", zorder=2
    )
    axes.scatter(x, result.accuracies, color=GREEN, label="final", zorder=3)
    mean, spread = float(np.mean(result.accuracies)), float(np.std(result.accuracies, ddof=1))
    axes.axhspan(mean - spread, mean + spread, color=GREEN, alpha=0.1, linewidth=0)
    axes.axhline(mean, color=GREEN, linewidth=1)
    axes.set_xticks(x, [f"fold {k}" for k in x])
    axes.set_xlim(-0.5, len(x) - 0.5)
    dress(axes, f"Accuracy {mean:.3f} ± {spread:.3f}")
    axes.legend(frameon=False, fontsize=8)
    return figure


def rate_curve(curve: RateCurve, key: str) -> Figure:
    """The loss over the learning rate, with the suggestion marked."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve.rates, curve.losses, color=BLUE, linewidth=1.5)
    loss = np.interp(np.log(curve.suggestion), np.log(curve.rates), curve.losses)
    axes.axvline(curve.suggestion, color=QUIET, linestyle=":", linewidth=1)
    axes.scatter([curve.suggestion], [loss], color=ORANGE, zorder=3)
    axes.annotate(f" {curve.suggestion:.1e}", (curve.suggestion, loss), color=INK, fontsize=9, va="bottom")
    axes.set(xscale="log", xlabel=key, ylabel="training loss (nats)")
    axes.xaxis.set_major_formatter("{x:.0e}")
    axes.xaxis.set_minor_formatter("")
    dress(axes, "Suggested: a tenth of where the loss is lowest")
    return figure


def class_histogram(counts: Mapping[str, int]) -> Figure:
    """Images of each class."""
    names = list(counts)
    figure = Figure(figsize=(6, min(1.2 + 0.26 * len(names), 16)), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(names)), [counts[name] for name in names], color=GREEN, height=0.7)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("images")
    dress(axes, f"{sum(counts.values())} images in {len(names)} classes")
    return figure


def image_sizes(table: pd.DataFrame) -> Figure:
    """Width against height of each image that decodes, in pixels; those left out in another colour."""
    decoded = table[table["width_px"] > 0]
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.subplots()
    for rows, colour, label in (
        (decoded[decoded["reason"] == ""], GREEN, "fit"),
        (decoded[decoded["reason"] != ""], ORANGE, "left out"),
    ):
        if len(rows):
            axes.scatter(
                rows["width_px"], rows["height_px"], s=14, color=colour, alpha=0.5, linewidths=0, label=label
            )
    axes.set(xscale="log", yscale="log", xlabel="width (px)", ylabel="height (px)")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    dress(axes, "Sizes")
    if len(decoded):
        axes.legend(frameon=False, fontsize=8)
    return figure


def mistakes(said: Predictions, root: Path) -> Figure:
    """A sheet of the images that the model names wrong, the surest first."""
    table = said.mistakes().head(SHEET_COLUMNS * SHEET_ROWS)
    rows = max(1, -(-len(table) // SHEET_COLUMNS))
    figure = Figure(figsize=(SHEET_COLUMNS * 1.6, rows * 1.95 + 0.5), layout="constrained")
    grid = figure.subplots(rows, SHEET_COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, row in zip(grid.flat, table.itertuples(), strict=False):
        # The folder may have changed since; the sheet is still worth having.
        axes.imshow(small(root / str(row.path)) or Image.new("RGB", (96, 96), QUIET))
        axes.set_title(f"{row.label}, called {row.predicted}\n{row.confidence:.0%} sure", fontsize=8, color=INK)
    wrong = len(said.mistakes())
    title = (
        f"{wrong} of {len(said.labels)} holdout images are named wrong"
        if wrong
        else "Every holdout image is named right"
    )
    figure.suptitle(title, fontsize=10, color=INK)
    return figure


def _line(axes: Axes, x: np.ndarray, y: list[float], colour: str, label: str) -> None:
    axes.plot(x, y, color=colour, marker="o", markersize=3, linewidth=1.5, label=label)


def dress(axes: Axes, title: str) -> None:
    """A title, and no more lines than are needed."""
    axes.set_title(title, fontsize=10, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=INK)
