"""Measures how time, peak memory and disk space of the pipeline grow with the number of images.

    python benchmarks/growth.py PHOTOS --weights FILE [--images 500 4000 32000] [--set KEY=VALUE] [--json FILE]

PHOTOS contains ``train/`` and ``val/``; the requested number of training images is generated from them as in
``benchmarks/pipeline.py``. For each number, the forecast of ``graft plan`` is computed first, with a separate cache;
then the whole pipeline runs with ``configs/photos.yaml``, an empty cache and a new ZenML home. Peak memory is that of
its largest process. On a machine with shared cores, repeat numbers later in the run: ``--images 500 4000 32000 4000
500``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pipeline import REPOSITORY, generate_images, seconds_by_step
from saving import save_results

FORECAST = """
import json, sys
from dataclasses import asdict
import graft.integrations.logging_setup
from graft.config.yaml_file import training_parameters
from graft.training.forecast import forecast
from pathlib import Path
print(json.dumps(asdict(forecast(training_parameters(Path("configs/photos.yaml"), sys.argv[1:]))[1])))
"""


def main() -> None:
    """Run the pipeline for each number of images, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--images", type=int, nargs="+", default=[500, 4000, 32000])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, help="save the results to this file")
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores; forecasts in brackets")
    results: list[dict[str, Any]] = []
    for count in options.images:
        with tempfile.TemporaryDirectory() as folder:
            photos = generate_images(options.photos.resolve(), Path(folder) / "photos", count)
            overrides = [f"data.root={photos}", f"model.weights={options.weights.resolve()}", *options.set]
            results.append({"images": count, **measure(overrides, Path(folder))})
        save_results(results, options.json)
        print(describe(results[-1], results[-2] if len(results) > 1 else None), flush=True)


def describe(result: dict[str, Any], previous: dict[str, Any] | None) -> str:
    """One line, with the time per additional image if the previous result has another number of images."""
    images, seconds = result["images"], result["seconds"]
    growth = ""
    if previous and previous["images"] != images:
        seconds_each = (seconds - previous["seconds"]) / (images - previous["images"])
        growth = f"{1000 * seconds_each:.1f} ms per additional image, "
    return (
        f"{images:6.0f} images: {seconds:5.0f} s [{result['forecast_seconds']:.0f}], {growth}"
        f"{result['memory'] / 1e9:.2f} GB of memory [{result['forecast_memory'] / 1e9:.2f}], "
        f"{result['disk'] / 1e6:.0f} MB of disk [{result['forecast_disk'] / 1e6:.0f}]"
    )


def measure(overrides: list[str], folder: Path) -> dict[str, Any]:
    """Total seconds, seconds by step, memory and disk space of a run, and their forecasts."""
    environment = os.environ | {"ZENML_CONFIG_PATH": str(folder / "zenml"), "GRAFT_CACHE": str(folder / "cache")}
    forecast = json.loads(
        subprocess.run(
            [sys.executable, "-c", FORECAST, *overrides], cwd=REPOSITORY, capture_output=True, check=True, text=True,
            env=environment | {"GRAFT_CACHE": str(folder / "forecast")},
        ).stdout.splitlines()[-1]
    )  # fmt: skip
    graft = str(Path(sys.executable).with_name("graft"))
    subprocess.run([graft, "setup"], cwd=REPOSITORY, env=environment, capture_output=True, check=True)
    size_before = folder_bytes(folder / "zenml")
    options = [argument for override in overrides for argument in ("--set", override)]
    start = time.perf_counter()
    run = subprocess.Popen(
        [graft, "run", "configs/photos.yaml", *options], cwd=REPOSITORY, env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    _, status, usage = os.wait4(run.pid, 0)
    if status:
        raise SystemExit("the pipeline failed")
    return {
        "seconds": time.perf_counter() - start, "memory": usage.ru_maxrss * 1024,
        "disk": folder_bytes(folder / "zenml") - size_before + folder_bytes(folder / "cache"),
        "forecast_seconds": sum(forecast["seconds"].values()), "forecast_memory": forecast["memory_bytes"],
        "forecast_disk": forecast["disk_bytes"], "steps": seconds_by_step(environment),
    }  # fmt: skip


def folder_bytes(folder: Path) -> int:
    """The size of all files in a folder, in bytes."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
