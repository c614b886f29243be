"""Draws ``docs/benchmarks.png`` from the JSON files in ``benchmarks/results/``.

python benchmarks/charts.py
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from accuracy_report import SEARCHED, Row
from bootstrap import interval
from graft.reports.figures import GREEN, INK, ORANGE, QUIET, as_png, style_axes

RESULTS, DOCS = Path(__file__).parent / "results", Path(__file__).parents[1] / "docs"


def main() -> None:
    """Draw the figure."""
    (DOCS / "benchmarks.png").write_bytes(as_png(benchmarks()))


def benchmarks() -> Figure:
    """Three charts side by side: pipeline and one plain loop, full fine-tuning, growth with the number of images."""
    figure = Figure(figsize=(11.5, 3.3), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    runs = {int(path.stem.split("_")[1]): load_result(path.stem) for path in RESULTS.glob("pipeline_*.json")}
    bars(left, "One plain loop, and Graft's whole pipeline (s)", {
        f"{count:,} images, {name}": statistics.median(run[key][0] for run in runs[count])
        for count in sorted(runs) for name, key in (("plain loop", "plain loop"), ("pipeline", "graft"))
    })  # fmt: skip
    throughput = {name: statistics.median(rates) for name, rates in load_result("throughput").items()}
    bars(middle, "Full fine-tuning (images per second)", throughput)
    growth = sorted(load_result("growth"), key=lambda run: run["images"])
    images = [run["images"] for run in growth]
    right.plot(images, [run["seconds"] for run in growth], "o-", color=GREEN, label="measured")
    forecast = [run["forecast_seconds"] for run in growth]
    right.plot(images, forecast, "o:", color=QUIET, label="forecast by graft plan")
    right.set(xlim=(0, None), ylim=(0, None), xlabel="images", ylabel="seconds")
    right.xaxis.set_major_locator(MaxNLocator(4))
    right.xaxis.set_major_formatter("{x:,.0f}")
    right.legend(frameon=False, fontsize=8)
    style_axes(right, "The whole pipeline, head only")
    return figure


def accuracy_differences(rows: list[Row]) -> Figure:
    """Graft's accuracy minus that of each trainer, one chart for each, with 95 % intervals.

    Green if the interval is above 0, orange if it is below; hollow with searched learning rates. The scales differ: one
    trainer that is far behind would hide the differences to the others.
    """
    names = list(dict.fromkeys(row.data for row in rows))
    trainers = list(dict.fromkeys(row.trainer.removesuffix(SEARCHED) for row in rows))
    figure = Figure(figsize=(max(6.4, 2.3 * len(trainers)), 1.3 + 0.3 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(trainers), sharey=True, squeeze=False)[0]
    for axes, trainer in zip(panels, trainers, strict=True):
        axes.axvline(0, color=QUIET, linewidth=1)
        for row in rows:
            if row.trainer.removesuffix(SEARCHED) == trainer:
                searched = row.trainer.endswith(SEARCHED)
                low, high = interval(100 * row.replicates)
                colour = GREEN if low > 0 else ORANGE if high < 0 else QUIET
                axes.errorbar(
                    100 * row.difference, names.index(row.data) + 0.25 * searched,
                    xerr=[[100 * row.difference - low], [high - 100 * row.difference]], color=colour, marker="o",
                    markersize=5, markerfacecolor="white" if searched else colour, linewidth=1.5,
                )  # fmt: skip
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(axis="y", length=0)
        style_axes(axes, trainer)
    panels[0].set_ylim(len(names) - 0.4, -0.5)
    caption = (
        "Graft's accuracy minus that of each trainer, in points, with 95 % intervals (each chart has its own scale)"
    )
    if any(row.trainer.endswith(SEARCHED) for row in rows):
        caption += "; hollow: with searched learning rates"
    figure.supxlabel(caption, fontsize=9)
    return figure


def bars(axes: Axes, title: str, values: dict[str, float]) -> None:
    """Horizontal bars labelled with their values, Graft's in green."""
    colours = [GREEN if name.startswith("graft") or name.endswith("pipeline") else QUIET for name in values]
    axes.barh(range(len(values)), list(values.values()), color=colours, height=0.65)
    axes.set_yticks(range(len(values)), list(values))
    for position, value in enumerate(values.values()):
        axes.text(value, position, f" {value:,.0f}", va="center", fontsize=8, color=INK)
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    style_axes(axes, title)


def load_result(name: str) -> Any:  # noqa: ANN401
    """The JSON that a benchmark wrote with ``--json``."""
    return json.loads((RESULTS / f"{name}.json").read_text())


if __name__ == "__main__":
    main()
