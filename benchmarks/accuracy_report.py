"""Table and chart of what ``benchmarks/accuracy.py`` measured; of several files, if they have the same holdouts.

    python benchmarks/accuracy_report.py RESULTS.json [MORE.json ...]

A measurement in a later file replaces that of an earlier one. Writes ``RESULTS.md`` and ``RESULTS.png``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bootstrap import difference_replicates, interval

GRID_FOLDS = 3
MEAN, SEARCHED = "mean of the sets", ", searched"
COLUMNS = ("photographs", "trainer", "accuracy", "macro-F1", "log loss", "Graft minus trainer", "seconds", "ratio")
NOTE = """\
Accuracy, macro-F1 and log loss (nats) on the holdout: mean over seeds, ± standard deviation. Difference in accuracy in
points, with a 95 % bootstrap interval over images, the same for both, and seeds. Seconds of training, median over
seeds, with the search if learning rates were searched; ratio to Graft's.
"""


@dataclass(frozen=True)
class Row:
    """A trainer on one set, or on average over all.

    ``accuracies`` are fractions ``[seeds]``, ``seconds`` and the losses means over sets if there are several.
    ``replicates`` of Graft's accuracy minus this trainer's, float64 ``[replicates]``, are empty for Graft itself, or if
    it was not measured; then ``difference`` has no meaning.
    """

    data: str
    trainer: str
    accuracies: np.ndarray
    macro_f1: float
    log_loss: float
    seconds: float
    graft_seconds: float
    difference: float
    replicates: np.ndarray

    def cells(self) -> tuple[str, ...]:
        """The row of the table, under ``COLUMNS``."""
        spread = f" ± {self.accuracies.std(ddof=1):.3f}" if len(self.accuracies) > 1 else ""
        difference = ratio = ""
        if len(self.replicates):
            low, high = interval(100 * self.replicates)
            difference = f"{100 * self.difference:+.1f} ({low:+.1f} to {high:+.1f})"
            ratio = f"{self.seconds / self.graft_seconds:.2f}"
        metrics = f"{self.accuracies.mean():.3f}{spread}", f"{self.macro_f1:.3f}", f"{self.log_loss:.3f}"
        return self.data, self.trainer, *metrics, difference, f"{self.seconds:.0f}", ratio


def compare(measurements: list[dict[str, Any]]) -> list[Row]:
    """One row for each set and trainer, then for each trainer the mean over the sets, if there are several."""
    names = list(dict.fromkeys(measurement["data"] for measurement in measurements))
    sides = sorted(dict.fromkeys(measurement["side"] for measurement in measurements), key=lambda side: side != "graft")
    generator = np.random.default_rng(0)
    rows = []
    for name in names:
        graft = final_runs(measurements, name, "graft", 1.0)
        for side in sides:
            if runs := final_runs(measurements, name, side, 1.0):
                rows.append(make_row(name, side.replace("_", " "), runs, graft, generator))
            best = best_lr_factor(measurements, name, side)
            if best and (runs := final_runs(measurements, name, side, best)):
                row = make_row(name, side.replace("_", " ") + SEARCHED, runs, graft, generator)
                search = sum(run["seconds"] for run in grid_runs(measurements, name, side))
                rows.append(Row(**vars(row) | {"seconds": row.seconds + search}))
    trainers = dict.fromkeys(row.trainer for row in rows)
    complete = [[row for row in rows if row.trainer == trainer] for trainer in trainers]
    return rows + [mean_row(group) for group in complete if len(group) == len(names) > 1]


def make_row(
    name: str, trainer: str, runs: list[dict[str, Any]], graft: list[dict[str, Any]], generator: np.random.Generator
) -> Row:
    """The row of one trainer on one set."""
    accuracies = np.array([run["accuracy"] for run in runs])
    replicates, difference, graft_seconds = np.empty(0), 0.0, 0.0
    if graft and trainer != "graft":
        replicates = difference_replicates(correct_images(graft), correct_images(runs), generator)
        difference = float(np.mean([run["accuracy"] for run in graft]) - accuracies.mean())
        graft_seconds = statistics.median(run["seconds"] for run in graft)
    return Row(
        name, trainer, accuracies,
        macro_f1=statistics.mean(run["macro_f1"] for run in runs),
        log_loss=statistics.mean(run["log_loss"] for run in runs),
        seconds=statistics.median(run["seconds"] for run in runs),
        graft_seconds=graft_seconds, difference=difference, replicates=replicates,
    )  # fmt: skip


def mean_row(rows: list[Row]) -> Row:
    """The mean over sets; the sets themselves are not resampled."""
    seeds = min(len(row.accuracies) for row in rows)
    replicates = [row.replicates for row in rows if len(row.replicates)]
    return Row(
        MEAN, rows[0].trainer, np.mean([row.accuracies[:seeds] for row in rows], axis=0),
        **{
            name: statistics.mean(getattr(row, name) for row in rows)
            for name in ("macro_f1", "log_loss", "seconds", "graft_seconds", "difference")
        },
        replicates=np.mean(replicates, axis=0) if len(replicates) == len(rows) else np.empty(0),
    )  # fmt: skip


def final_runs(measurements: list[dict[str, Any]], name: str, side: str, lr_factor: float) -> list[dict[str, Any]]:
    """The trainings on all training images, one for each seed."""
    key = {"data": name, "side": side, "lr_factor": lr_factor, "fold": None}
    return sorted((run for run in measurements if key.items() <= run.items()), key=lambda run: run["seed"])


def grid_runs(measurements: list[dict[str, Any]], name: str, side: str) -> list[dict[str, Any]]:
    """The trainings that search learning rates."""
    return [run for run in measurements if (run["data"], run["side"]) == (name, side) and run["fold"] is not None]


def best_lr_factor(measurements: list[dict[str, Any]], name: str, side: str) -> float | None:
    """The multiple of the learning rates with the highest accuracy over the folds, or of these the lowest log loss.

    None while the search has not ended.
    """
    runs: dict[float, list[dict[str, Any]]] = {}
    for run in grid_runs(measurements, name, side):
        runs.setdefault(run["lr_factor"], []).append(run)
    if not runs or any(len(group) < GRID_FOLDS for group in runs.values()):
        return None

    def rank(lr_factor: float) -> tuple[float, float]:
        accuracy, loss = (statistics.mean(run[name] for run in runs[lr_factor]) for name in ("accuracy", "log_loss"))
        return accuracy, -loss

    return max(runs, key=rank)


def correct_images(runs: list[dict[str, Any]]) -> np.ndarray:
    """Whether each image is classified correctly, bool ``[seeds, images]``."""
    return np.array([[digit == "1" for digit in run["correct"]] for run in runs])


def markdown(rows: Iterable[Row]) -> str:
    """The rows as a table, aligned so that it can be read as text as well."""
    lines = [COLUMNS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    lines.insert(1, tuple("-" * width for width in widths))
    table = (" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join([NOTE, *(f"| {line} |" for line in table)]) + "\n"


def write_report(measurements: list[dict[str, Any]], path: Path) -> None:
    """Print the table; write it and the chart beside the JSON file."""
    from charts import accuracy_differences  # imports Graft, which takes seconds
    from graft.reports.figures import as_png

    rows = compare(measurements)
    print("\n" + markdown(rows))
    path.with_suffix(".md").write_text(markdown(rows))
    if compared := [row for row in rows if len(row.replicates)]:
        path.with_suffix(".png").write_bytes(as_png(accuracy_differences(compared)))


def main() -> None:
    """Report on the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    paths = parser.parse_args().results
    holdouts: dict[str, list[str]] = {}
    measurements: dict[tuple[Any, ...], dict[str, Any]] = {}
    for path in paths:
        saved = json.loads(path.read_text())
        for name, images in saved["holdouts"].items():
            if holdouts.setdefault(name, images) != images:
                sys.exit(f"{path} was measured with other images in {name}/val/ than the files before it.")
        for run in saved["measurements"]:
            measurements[tuple(run[key] for key in ("data", "side", "seed", "lr_factor", "fold"))] = run
    write_report(list(measurements.values()), paths[0])


if __name__ == "__main__":
    main()
