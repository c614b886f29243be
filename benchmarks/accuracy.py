"""Compares the accuracy and time of Graft's default with its peers' on several sets of photographs.

    python benchmarks/accuracy.py DATA/* --weights FILE --json FILE [--sides graft timm] [--seeds 3] [--grid]

Each DATA folder has ``train/`` and ``val/``; ``val/`` is the holdout, and nothing is tuned on it. All start from the
same weights of torchvision's MobileNetV2, with their own documented defaults (``benchmarks/baselines/accuracy_with_*``
and ``benchmarks/plain_loop.py`` say which) and the same number of passes over the training images. With ``--grid``,
each peer with learning rates is trained again at the multiple of its default that is best in three folds of the
training images.

Each measurement has a process and an empty cache of its own, and is saved when it ends; the same command continues an
interrupted benchmark. The table is printed and written beside the JSON file as ``.md``, the chart as ``.png``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib import import_module, metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from accuracy_report import GRID_FOLDS, best_lr_factor, write_report
from baselines.task import Task, fold_folders, score
from saving import save_results

SIDES = {  # the module of each, and the packages that it needs
    "graft": ("baselines.accuracy_with_graft", ("graft",)),
    "plain_loop": ("plain_loop", ("torch",)),
    "fastai": ("baselines.accuracy_with_fastai", ("fastai",)),
    "transformers": ("baselines.accuracy_with_transformers", ("transformers", "accelerate")),
    "timm": ("baselines.accuracy_with_timm", ("timm",)),
    "logistic_regression": ("baselines.accuracy_with_logistic_regression", ("scikit-learn",)),
}


def main() -> None:
    """Measure what the JSON file lacks, and report."""
    options = parse_options()
    settings = {"weights": options.weights.name, "epochs": options.epochs, "folds": options.folds, "set": options.set}
    benchmark = Benchmark(options.json, settings)
    tasks = {
        folder.name: Task(
            folder.resolve(), options.weights.resolve(), 0, options.epochs, options.folds, overrides=tuple(options.set)
        )
        for folder in options.data
    }
    for name, task in tasks.items():
        benchmark.check_holdout(name, task.holdout)
    # One seed after another, and all sides of a set in turn: a machine with shared cores is slower at some times.
    for seed in range(options.seeds):
        for name, task in tasks.items():
            for side in options.sides:
                benchmark.measure(name, side, replace(task, seed=seed))
    if options.grid:
        for name, task in tasks.items():
            for side in options.sides:
                benchmark.measure_grid(name, side, task, options.seeds)
    write_report(benchmark.measurements, options.json)


def parse_options() -> argparse.Namespace:
    """The command line; ends the program with one sentence if a folder, a file or a package is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--weights", type=Path, required=True, help="MobileNetV2 as .safetensors")
    parser.add_argument("--json", type=Path, required=True, help="save the results to this file, or continue it")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), metavar="SIDE", help=", ".join(SIDES))
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, …")
    parser.add_argument("--epochs", type=int, default=12, help="passes of each peer over the training images")
    parser.add_argument("--folds", type=int, default=0, help="folds that the plain loop trains before its final model")
    parser.add_argument("--grid", action="store_true", help="also train each peer with its best learning rates")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for Graft's config")
    options = parser.parse_args()
    for folder in options.data:
        if not ((folder / "train").is_dir() and (folder / "val").is_dir()):
            parser.error(f"{folder} has no folders train/ and val/; name folders that have both")
    if len({folder.resolve().name for folder in options.data}) < len(options.data):
        parser.error("two of the folders have the same name, which names their results; rename one")
    if not options.weights.is_file():
        parser.error(f"--weights: there is no file {options.weights}")
    for side in options.sides:
        try:
            package_versions(side)
        except metadata.PackageNotFoundError as error:
            parser.error(
                f"{side} needs the package {error.name}: install it with 'python -m pip install --constraint "
                f"constraints.txt {' '.join(SIDES[side][1])}' in a copy of Graft's environment, or choose other --sides"
            )
    return options


class Benchmark:
    """The measurements of a JSON file, and those that are added to it."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        saved: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"settings": settings}
        if saved["settings"] != settings:
            sys.exit(f"{path} was measured with {saved['settings']}, not with {settings}; name another file in --json.")
        self.settings = settings
        self.holdouts: dict[str, list[str]] = saved.get("holdouts", {})
        self.measurements: list[dict[str, Any]] = saved.get("measurements", [])

    def check_holdout(self, name: str, images: list[str]) -> None:
        """Ends the program if the holdout of a set is not the one that was measured before."""
        if self.holdouts.setdefault(name, images) != images:
            sys.exit(f"{self.path} was measured with other images in {name}/val/; name another file in --json.")

    def measure(self, name: str, side: str, task: Task, fold: int | None = None) -> None:
        """Train and score in a new process, unless that is done already; ``fold`` numbers the folds of the grid."""
        key = {"data": name, "side": side, "seed": task.seed, "lr_factor": task.lr_factor, "fold": fold}
        if any(key.items() <= measurement.items() for measurement in self.measurements):
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as process:
            result = process.submit(train_and_score, side, task).result()
        self.measurements.append(key | result)
        results = {"settings": self.settings, "holdouts": self.holdouts, "measurements": self.measurements}
        save_results(results, self.path)
        where = f"fold {fold}" if fold is not None else f"seed {task.seed}"
        print(
            f"{name}, {side}, {where}, {task.lr_factor:g} times the learning rates: accuracy {result['accuracy']:.3f}, "
            f"macro-F1 {result['macro_f1']:.3f}, log loss {result['log_loss']:.3f}, {result['seconds']:.0f} s",
            flush=True,
        )

    def measure_grid(self, name: str, side: str, task: Task, seeds: int) -> None:
        """Cross-validate each multiple of the learning rates, then train with the best of them."""
        lr_factors = import_side(side).LR_FACTORS
        if len(lr_factors) == 1:
            return
        with fold_folders(task.data, GRID_FOLDS) as folders:
            for fold, folder in enumerate(folders):
                for lr_factor in lr_factors:
                    self.measure(name, side, replace(task, data=folder, folds=0, lr_factor=lr_factor), fold)
        best = best_lr_factor(self.measurements, name, side)
        assert best is not None
        for seed in range(seeds):
            self.measure(name, side, replace(task, seed=seed, lr_factor=best))


def train_and_score(side: str, task: Task) -> dict[str, Any]:
    """Metrics, seconds and details of one training, with an empty cache."""
    with TemporaryDirectory() as cache:
        os.environ["GRAFT_CACHE"] = cache
        outcome = import_side(side).train_and_predict(task)
    measured = {"seconds": outcome.seconds, "versions": package_versions(side), "details": outcome.details}
    return score(task, outcome) | measured


def import_side(side: str) -> Any:  # noqa: ANN401
    """The module of a side, whose packages the others do not need."""
    return import_module(SIDES[side][0])


def package_versions(side: str) -> dict[str, str]:
    """The installed packages that a side needs; raises ``PackageNotFoundError``."""
    return {package: metadata.version(package) for package in SIDES[side][1]}


if __name__ == "__main__":
    main()
