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

from graft.data.thumbnails import load_thumbnail
from graft.errors import printable
from graft.evaluation.metrics import Predictions
from graft.training.cross_validation import CrossValidation
from graft.training.history import EpochMetrics
from graft.training.lr_finder import LRFinderResult

mpl.rcParams["text.parse_math"] = False  # a class name may be $x$
INK, QUIET = "#1b2a33", "#8a979e"
GREEN, ORANGE, BLUE = "#2f7d4f", "#d9822b", "#3b6ea5"
SHEET_COLUMNS, SHEET_ROWS = 6, 4


def as_image(figure: Figure, dpi: int = 110) -> Image.Image:
    """The figure as an RGB image."""
    # Not ``Figure.savefig``, which draws a figure with a layout twice.
    figure.set_dpi(dpi)
    figure.set_facecolor("white")  # a user's Matplotlib style may set another one
    pixels, size = FigureCanvasAgg(figure).print_to_buffer()  # type: ignore[no-untyped-call]
    return Image.frombytes("RGBA", size, pixels).convert("RGB")


def as_png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    as_image(figure, dpi).save(buffer, "PNG")
    return buffer.getvalue()


def learning_curves(warm_up: list[EpochMetrics], fine_tune: list[EpochMetrics]) -> Figure:
    """Losses (left), accuracy and macro-F1 on the folds' test images (right) over the epochs of both phases."""
    epochs = [*warm_up, *fine_tune]
    x = np.arange(1, len(epochs) + 1)
    figure = Figure(figsize=(9, 3.4))
    left, right = figure.subplots(1, 2, gridspec_kw={"left": 0.06, "right": 0.98, "bottom": 0.14, "top": 0.91})
    _line(left, x, [epoch.train_loss for epoch in epochs], ORANGE, "training")
    _line(left, x, [epoch.val_loss for epoch in epochs], BLUE, "test images of the folds")
    _line(right, x, [epoch.val_accuracy for epoch in epochs], GREEN, "accuracy")
    _line(right, x, [epoch.val_macro_f1 for epoch in epochs], BLUE, "macro-F1")
    for axes, title in ((left, "Loss (nats)"), (right, "Test images of the folds")):
        style_axes(axes, title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
        if fine_tune and warm_up:
            axes.axvline(len(warm_up) + 0.5, color=QUIET, linestyle=":", linewidth=1)
            axes.text(len(warm_up) + 0.55, 1.0, " fine-tuning", color=QUIET, fontsize=8, va="top",
                      transform=axes.get_xaxis_transform())  # fmt: skip
        axes.legend(frameon=False, fontsize=8)
    return figure


def confusion(predictions: Predictions) -> Figure:
    """The confusion matrix: true classes in rows, predicted classes in columns, zeros left blank."""
    counts, classes = predictions.confusion(), predictions.classes
    side = min(3 + 0.38 * len(classes), 14)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Greens", vmin=0, vmax=1)
    if len(classes) <= 30:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.5 else INK
                axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(classes)), classes, rotation=90 if len(classes) > 6 else 0, fontsize=8)
    axes.set_yticks(range(len(classes)), classes, fontsize=8)
    axes.set(xlabel="predicted", ylabel="true")
    title = f"{predictions.accuracy:.1%} of {len(predictions.labels)} images are classified correctly"
    axes.set_title(title, color=INK, fontsize=10)
    return figure


def reliability(predictions: Predictions) -> Figure:
    """A reliability diagram: accuracy at each confidence; a calibrated model is on the diagonal."""
    confidence, accuracy, count = predictions.reliability()
    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=QUIET, linestyle=":", linewidth=1)
    filled = count > 0
    axes.bar(
        (np.arange(len(count)) + 0.5) / len(count),
        np.where(filled, accuracy, 0),
        width=0.9 / len(count),
        color=GREEN,
        alpha=0.35,
    )
    sizes = 15 + 200 * count[filled] / max(count.max(), 1)
    axes.scatter(confidence[filled], accuracy[filled], s=sizes, color=GREEN, zorder=3)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy")
    style_axes(axes, f"Calibration error {predictions.ece:.3f} (temperature {predictions.temperature:.2f})")
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


def class_histogram(counts: Mapping[str, int]) -> Figure:
    """The number of images of each class."""
    names = list(counts)
    figure = Figure(figsize=(6, min(1.2 + 0.26 * len(names), 16)), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(names)), [counts[name] for name in names], color=GREEN, height=0.7)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("images")
    style_axes(axes, f"{sum(counts.values())} images in {len(names)} classes")
    return figure


def image_sizes(table: pd.DataFrame) -> Figure:
    """Width and height in pixels of each image that decodes; quarantined images in another colour."""
    decoded = table[table["width_px"] > 0]
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.subplots()
    for records, colour, label in (
        (decoded[decoded["reason"] == ""], GREEN, "fit"),
        (decoded[decoded["reason"] != ""], ORANGE, "left out"),
    ):
        if len(records):
            widths, heights = records["width_px"], records["height_px"]
            axes.scatter(widths, heights, s=14, color=colour, alpha=0.5, linewidths=0, label=label)
    axes.set(xscale="log", yscale="log", xlabel="width (px)", ylabel="height (px)")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    style_axes(axes, "Image sizes")
    if len(decoded):
        axes.legend(frameon=False, fontsize=8)
    return figure


def mistakes(predictions: Predictions, root: Path) -> Figure:
    """Thumbnails of the misclassified images, the most confident mistakes first."""
    table = predictions.mistakes()
    wrong, table = len(table), table.head(SHEET_COLUMNS * SHEET_ROWS)
    rows = max(1, -(-len(table) // SHEET_COLUMNS))
    figure = Figure(figsize=(SHEET_COLUMNS * 1.6, rows * 1.95 + 0.5), layout="constrained")
    grid = figure.subplots(rows, SHEET_COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, row in zip(grid.flat, table.itertuples(), strict=False):
        # A file may be gone by now; the other images are still worth showing.
        axes.imshow(load_thumbnail(root / str(row.path)) or Image.new("RGB", (96, 96), QUIET))
        caption = f"{row.label}, predicted {row.predicted}\n{row.confidence:.0%} confident"
        axes.set_title(caption, fontsize=8, color=INK)
    title = (
        f"{wrong} of {len(predictions.labels)} holdout images are misclassified"
        if wrong
        else "Every holdout image is classified correctly"
    )
    figure.suptitle(title, fontsize=10, color=INK)
    return figure


def _line(axes: Axes, x: np.ndarray, y: list[float | None], colour: str, label: str) -> None:
    axes.plot(x, np.array(y, dtype=float), color=colour, marker="o", markersize=3, linewidth=1.5, label=label)


def style_axes(axes: Axes, title: str) -> None:
    """Set the title and the common style: no top and right spines, small tick labels."""
    axes.set_title(title, fontsize=10, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=INK)
