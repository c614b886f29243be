"""Draw ``docs/benchmarks.png`` and ``docs/views.png`` from what the benchmarks found, in ``benchmarks/results/``.

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

from graft.reports.figures import BLUE, GREEN, INK, ORANGE, QUIET, as_png, dress

RESULTS, DOCS = Path(__file__).parent / "results", Path(__file__).parents[1] / "docs"


def main() -> None:
    """Draw both."""
    (DOCS / "benchmarks.png").write_bytes(as_png(benchmarks()))
    (DOCS / "views.png").write_bytes(as_png(views()))


def benchmarks() -> Figure:
    """Three charts side by side: the pipeline against one plain loop, full fine-tuning, growth."""
    figure = Figure(figsize=(11.5, 3.3), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    runs = {int(path.stem.split("_")[1]): result(path.stem) for path in RESULTS.glob("pipeline_*.json")}
    bars(left, "One plain loop, and Graft's whole pipeline (s)", {
        f"{count:,} images, {name}": statistics.median(each[key][0] for each in runs[count])
        for count in sorted(runs) for name, key in (("plain loop", "plain loop"), ("pipeline", "graft"))
    })  # fmt: skip
    rates = {side: statistics.median(found) for side, found in result("throughput").items()}
    bars(middle, "Full fine-tuning (images a second)", rates)
    rows = sorted(result("growth"), key=lambda row: row["images"])
    right.plot([row["images"] for row in rows], [row["seconds"] for row in rows], "o-", color=GREEN, label="took")
    right.plot(
        [row["images"] for row in rows], [row["forecast_seconds"] for row in rows], "o:", color=QUIET,
        label="forecast by graft plan",
    )  # fmt: skip
    right.set(xlim=(0, None), ylim=(0, None), xlabel="images", ylabel="seconds")
    right.xaxis.set_major_locator(MaxNLocator(4))
    right.xaxis.set_major_formatter("{x:,.0f}")
    right.legend(frameon=False, fontsize=8)
    dress(right, "The whole pipeline, head only")
    return figure


def views() -> Figure:
    """Accuracy over the number of views that are kept of each image, and what they cost."""
    figure = Figure(figsize=(6.4, 3.3), layout="constrained")
    axes = figure.subplots()
    for colour, (name, found) in zip((GREEN, BLUE, ORANGE), result("views").items(), strict=True):
        counts = [int(count) for count in found]
        mean, spread = zip(*found.values(), strict=True)
        axes.errorbar(counts, mean, spread, color=colour, marker="o", markersize=4, capsize=3, label=name)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(top=0.99)  # room for the legend
    axes.set(xlabel="views of each image, each one pass over the images", ylabel="accuracy on the holdout")
    axes.legend(frameon=False, fontsize=8)
    dress(axes, "How many augmented views are enough (5 seeds)")
    return figure


def bars(axes: Axes, title: str, values: dict[str, float]) -> None:
    """Horizontal bars with their figures, Graft's in green."""
    ours = [name.startswith("graft") or name.endswith("pipeline") for name in values]
    axes.barh(
        range(len(values)), list(values.values()), color=[GREEN if own else QUIET for own in ours], height=0.65
    )
    axes.set_yticks(range(len(values)), list(values))
    for place, value in enumerate(values.values()):
        axes.text(value, place, f" {value:,.0f}", va="center", fontsize=8, color=INK)
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    dress(axes, title)


def result(name: str) -> Any:  # noqa: ANN401
    """What a benchmark wrote with ``--json``."""
    return json.loads((RESULTS / f"{name}.json").read_text())


if __name__ == "__main__":
    main()
