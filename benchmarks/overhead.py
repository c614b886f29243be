"""Measures the overhead of ZenML, MLflow, materializers and reports: seconds in total and by step.

    python benchmarks/overhead.py PHOTOS --weights FILE [--seeds 3] [--json FILE]

Times the whole pipeline and ``benchmarks/bare_recipe.py``, which calls the same functions without it, in turn with
``configs/photos.yaml``, each from start to end of its process and with an empty cache. Their order alternates from seed
to seed. Medians of parts do not add up to the median of the total.
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

from pipeline import REPOSITORY, config_arguments, run_pipeline
from saving import save_results

RunResult = tuple[float, float, dict[str, float]]  # seconds, accuracy on the holdout, seconds by step


def main() -> None:
    """Time both for each seed, and print the additional seconds of the pipeline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="save the results to this file")
    options = parser.parse_args()
    photos, weights = options.photos.resolve(), options.weights.resolve()
    results: list[dict[str, RunResult]] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            variants = {"graft": run_pipeline, "bare": run_bare_recipe}
            order = sorted(variants, reverse=seed % 2 == 0)
            result = {name: variants[name](photos, weights, seed, Path(folder) / f"{name}{seed}") for name in order}
            pipeline, bare = result["graft"], result["bare"]
            results.append(result)
            save_results(results, options.json)
            print(
                f"seed {seed}: pipeline {pipeline[0]:.1f} s, accuracy {pipeline[1]:.3f}; "
                f"bare {bare[0]:.1f} s, accuracy {bare[1]:.3f}", flush=True,
            )  # fmt: skip
    print(f"{platform.machine()}, {os.cpu_count()} cores; additional seconds, median (and range):")
    print(f"{'total':20} {spread([result['graft'][0] - result['bare'][0] for result in results])}")
    for step in results[0]["graft"][2]:
        print(f"{step:20} {spread([step_overhead(result, step) for result in results])}")
    print(f"{'outside the steps':20} {spread([overhead_outside_steps(result) for result in results])}")


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):5.1f} ({min(values):.1f} to {max(values):.1f})"


def step_overhead(result: dict[str, RunResult], step: str) -> float:
    """The additional seconds of a step over the same work in the bare recipe."""
    return result["graft"][2][step] - result["bare"][2].get(step, 0.0)


def overhead_outside_steps(result: dict[str, RunResult]) -> float:
    """The additional seconds before, between and after the steps: imports and ZenML's orchestration."""
    pipeline, bare = (seconds - sum(steps.values()) for seconds, _, steps in (result["graft"], result["bare"]))
    return pipeline - bare


def run_bare_recipe(photos: Path, weights: Path, seed: int, home: Path) -> RunResult:
    """Seconds, accuracy and seconds by step of the bare recipe with an empty cache."""
    script = REPOSITORY / "benchmarks" / "bare_recipe.py"
    home.mkdir()
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, script, home / "model.onnx", *config_arguments(photos, weights, seed)],
        cwd=REPOSITORY, env=os.environ | {"GRAFT_CACHE": str(home / "cache")}, capture_output=True, check=True,
        text=True,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    output = json.loads(done.stdout.splitlines()[-1])
    return seconds, output["accuracy"], output["steps"]


if __name__ == "__main__":
    main()
