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

from graft.reports.figures import GREEN, INK, QUIET, as_png, style_axes

RESULTS, DOCS = Path(__file__).parent / "results", Path(__file__).parents[1] / "docs"


def main() -> None:
    """Draw both figures."""
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
