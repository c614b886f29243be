"""What ZenML, MLflow, materializers and reports add to a training: seconds, in all and by step.

    python benchmarks/overhead.py PHOTOS --weights FILE [--seeds 3] [--json FILE]

The whole pipeline and ``benchmarks/bare_recipe.py``, which calls the same functions one after another, are timed
in turn with ``configs/photos.yaml``, each from start to end of its process and with an empty cache; every second
seed begins with the other. Medians of parts do not add up to the median of the whole.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from keeping import keep
from pipeline import REPOSITORY, by_graft, configured

Timed = tuple[float, float, dict[str, float]]


def main() -> None:
    """Time both for each seed, and print what the pipeline takes more."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="keep the figures here")
    options = parser.parse_args()
    photos, weights = options.photos.resolve(), options.weights.resolve()
    found: list[dict[str, Timed]] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            sides = {"graft": by_graft, "bare": by_bare_recipe}
            order = sorted(sides, reverse=seed % 2 == 0)
            each = {side: sides[side](photos, weights, seed, Path(folder) / f"{side}{seed}") for side in order}
            whole, bare = each["graft"], each["bare"]
            found.append(each)
            keep(found, options.json)
            print(
                f"seed {seed}: pipeline {whole[0]:.1f} s, accuracy {whole[1]:.3f}; "
                f"bare {bare[0]:.1f} s, accuracy {bare[1]:.3f}", flush=True,
            )  # fmt: skip
    print(f"{platform.machine()}, {os.cpu_count()} cores; seconds more, median (and range):")
    print(f"{'in all':20} {spread([each['graft'][0] - each['bare'][0] for each in found])}")
    for step in found[0]["graft"][2]:
        print(f"{step:20} {spread([added(each, step) for each in found])}")
    print(f"{'beside the steps':20} {spread([beside(each) for each in found])}")


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):5.1f} ({min(values):.1f} to {max(values):.1f})"


def added(each: dict[str, Timed], step: str) -> float:
    """The seconds that a step takes more than the same work alone."""
    return each["graft"][2][step] - each["bare"][2].get(step, 0.0)


def beside(each: dict[str, Timed]) -> float:
    """The seconds more before, between and after the steps: imports, and what ZenML does there."""
    whole, bare = (seconds - sum(steps.values()) for seconds, _, steps in (each["graft"], each["bare"]))
    return whole - bare


def by_bare_recipe(photos: Path, weights: Path, seed: int, home: Path) -> Timed:
    """Seconds and accuracy of the bare recipe with an empty cache, and seconds by step."""
    script = REPOSITORY / "benchmarks" / "bare_recipe.py"
    home.mkdir()
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, script, home / "model.onnx", *configured(photos, weights, seed)],
        cwd=REPOSITORY, env=os.environ | {"GRAFT_CACHE": str(home / "cache")}, capture_output=True, check=True,
        text=True,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    said = json.loads(done.stdout.splitlines()[-1])
    return seconds, said["accuracy"], said["steps"]


if __name__ == "__main__":
    main()
