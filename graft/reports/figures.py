"""Figures for MLflow and for ZenML's dashboard."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
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
from graft.evaluation.metrics import Predictions
from graft.reports.labels import drawable

mpl.rcParams.update({"text.parse_math": False, "text.usetex": False})  # a class name may be $x$ or a_b
INK, QUIET = "#1b2a33", "#8a979e"
GREEN, ORANGE, BLUE = "#2f7d4f", "#d9822b", "#3b6ea5"
SHEET_COLUMNS, SHEET_ROWS = 6, 4
MAX_GRID_CLASSES = 30  # above, a confusion matrix cannot be read
TOP_CONFUSIONS = 25
MAX_BARS = 40
CAPTION_WIDTH = 14


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


def confusion(predictions: Predictions) -> Figure:
    """The confusion matrix: true classes in rows, predicted classes in columns, zeros left blank.

    Of more than 30 classes, the 25 most frequent confusions as bars.
    """
    counts, classes = predictions.confusion(), predictions.classes
    title = f"{predictions.accuracy:.1%} of {len(predictions.labels)} images are classified correctly"
    if len(classes) > MAX_GRID_CLASSES:
        return _top_confusions(counts, classes, title)
    names, fonts = drawable(classes)
    longest = max(map(len, names))
    side = 2.4 + 0.07 * longest + 0.38 * len(classes)
    figure = Figure(figsize=(max(side, 4.8), side), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Greens", vmin=0, vmax=1)
    for row, column in np.argwhere(counts):
        colour = "white" if shares[row, column] > 0.5 else INK
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=8)
    rotation = 90 if longest > 6 or len(classes) > 6 else 0
    axes.set_xticks(range(len(classes)), names, rotation=rotation, fontsize=8, fontfamily=fonts)
    axes.set_yticks(range(len(classes)), names, fontsize=8, fontfamily=fonts)
    axes.set(xlabel="predicted", ylabel="true")
    figure.suptitle(title, color=INK, fontsize=10)
    return figure


def _top_confusions(counts: np.ndarray, classes: list[str], title: str) -> Figure:
    wrong = counts - np.diag(np.diag(counts))
    pairs = np.argwhere(wrong)
    pairs = pairs[np.argsort(-wrong[tuple(pairs.T)], kind="stable")]
    top = pairs[:TOP_CONFUSIONS]
    names, fonts = drawable(classes[index] for index in top.flat)
    captions = [f"{true}, predicted {predicted}" for true, predicted in zip(names[::2], names[1::2], strict=True)]
    shown = f"\nthe {len(top)} most frequent of {len(pairs)} confusions" if len(top) < len(pairs) else ""
    return _bars(captions, fonts, wrong[tuple(top.T)], title + shown)


def reliability(predictions: Predictions) -> Figure:
    """A reliability diagram: accuracy at each confidence; a calibrated model is on the diagonal."""
    confidence, accuracy, count = predictions.reliability()
    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=QUIET, linestyle=":", linewidth=1)
    filled = count > 0
    centres = (np.arange(len(count)) + 0.5) / len(count)
    axes.bar(centres, np.where(filled, accuracy, 0), width=0.9 / len(count), color=GREEN, alpha=0.35)
    sizes = 15 + 200 * count[filled] / max(count.max(), 1)
    axes.scatter(confidence[filled], accuracy[filled], s=sizes, color=GREEN, zorder=3)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy")
    style_axes(axes, f"Calibration error {predictions.ece:.3f} (temperature {predictions.temperature:.2f})")
    return figure


def class_histogram(counts: Mapping[str, int]) -> Figure:
    """The number of images of each class; of more than 40 classes, of the 20 largest and the 20 smallest."""
    title = f"{sum(counts.values())} images in {len(counts)} classes"
    if len(counts) <= MAX_BARS:
        return _bars(*drawable(counts), list(counts.values()), title)
    by_size = sorted(counts, key=lambda name: (-counts[name], name))
    half = MAX_BARS // 2
    names, fonts = drawable([*by_size[:half], *by_size[-half:]])
    values = [counts[name] for name in by_size]
    names.insert(half, f"… {len(counts) - MAX_BARS} classes between")
    return _bars(names, fonts, [*values[:half], math.nan, *values[-half:]], title)


def _bars(names: list[str], fonts: list[str], values: Sequence[float] | np.ndarray, title: str) -> Figure:
    figure = Figure(figsize=(6.5, 1.2 + 0.26 * len(names)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(range(len(names)), values, color=GREEN, height=0.7)
    axes.bar_label(bars, fmt="{:,.0f}", fontsize=8, padding=2, color=INK)
    axes.set_yticks(range(len(names)), names, fontfamily=fonts)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel("images")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    style_axes(axes, "")
    figure.suptitle(title, fontsize=10, color=INK)
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
    figure = Figure(figsize=(SHEET_COLUMNS * 2.05, rows * 2.4 + 0.5), layout="constrained")
    grid = figure.subplots(rows, SHEET_COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    names, fonts = drawable([*table["label"], *table["predicted"]], CAPTION_WIDTH)
    captions = zip(names[: len(table)], names[len(table) :], table["confidence"], strict=True)
    for axes, path, (label, predicted, confidence) in zip(grid.flat, table["path"], captions, strict=False):
        # A file may be gone by now; the other images are still worth showing.
        axes.imshow(load_thumbnail(root / path) or Image.new("RGB", (96, 96), QUIET))
        caption = f"labelled {label}\npredicted {predicted}\n{confidence:.0%} confident"
        axes.set_title(caption, fontsize=7.5, color=INK, fontfamily=fonts)
    title = (
        f"{wrong} of {len(predictions.labels)} holdout images are misclassified"
        if wrong
        else "Every holdout image is classified correctly"
    )
    figure.suptitle(title, fontsize=10, color=INK)
    return figure


def style_axes(axes: Axes, title: str) -> None:
    """Set the title and the common style: no top and right spines, small tick labels."""
    axes.set_title(title, fontsize=10, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=INK)
