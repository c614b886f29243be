"""How the pipeline grows with the number of images: seconds an image, peak memory, disk, and what was forecast.

    python benchmarks/growth.py PHOTOS --weights FILE [--images 500 4000 32000] [--set KEY=VALUE] [--json FILE]

PHOTOS holds ``train/`` and ``val/``, of which so many are made (see ``benchmarks/pipeline.py``). For each number,
what ``graft plan`` would say is asked first, with a cache of its own; then the whole pipeline runs with
``configs/photos.yaml``, an empty cache and a new ZenML home. Its peak of memory is that of its largest process.
Where the cores are shared, name a number again, later: ``--images 500 4000 32000 4000 500``.
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

from keeping import keep
from pipeline import REPOSITORY, multiplied, seconds_by_step

FORECAST = """
import json, sys
from dataclasses import asdict
import graft.runtime.quiet
from graft.config_file import training_parameters
from graft.forecast import forecast
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
    parser.add_argument("--json", type=Path, help="keep the figures here")
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores; in brackets what was forecast")
    found = []
    for count in options.images:
        with tempfile.TemporaryDirectory() as folder:
            photos = multiplied(options.photos.resolve(), Path(folder) / "photos", count)
            chosen = [f"data.root={photos}", f"model.weights={options.weights.resolve()}", *options.set]
            found.append({"images": count, **measured(chosen, Path(folder))})
        keep(found, options.json)
        print(in_words(found[-1], found[-2] if len(found) > 1 else None), flush=True)


def in_words(row: dict[str, Any], before: dict[str, Any] | None) -> str:
    """A line, with the time of each image more than in the row before, where that has another number."""
    images, seconds = row["images"], row["seconds"]
    if before and before["images"] != images:
        each = (seconds - before["seconds"]) / (images - before["images"])
        growth = f"{1000 * each:.1f} ms for each more, "
    else:
        growth = ""
    return (
        f"{images:6.0f} images: {seconds:5.0f} s [{row['forecast_seconds']:.0f}], {growth}"
        f"{row['memory'] / 1e9:.2f} GB of memory [{row['forecast_memory'] / 1e9:.2f}], "
        f"{row['disk'] / 1e6:.0f} MB of disk [{row['forecast_disk'] / 1e6:.0f}]"
    )


def measured(chosen: list[str], folder: Path) -> dict[str, Any]:
    """What a run took, in all and by step, and what was forecast."""
    home = os.environ | {"ZENML_CONFIG_PATH": str(folder / "zenml"), "GRAFT_CACHE": str(folder / "cache")}
    forecast = json.loads(
        subprocess.run(
            [sys.executable, "-c", FORECAST, *chosen], cwd=REPOSITORY, capture_output=True, check=True, text=True,
            env=home | {"GRAFT_CACHE": str(folder / "forecast")},
        ).stdout.splitlines()[-1]
    )  # fmt: skip
    graft = str(Path(sys.executable).with_name("graft"))
    subprocess.run([graft, "setup"], cwd=REPOSITORY, env=home, capture_output=True, check=True)
    before = held(folder / "zenml")
    options = [word for each in chosen for word in ("--set", each)]
    start = time.perf_counter()
    run = subprocess.Popen(
        [graft, "run", "configs/photos.yaml", *options], cwd=REPOSITORY, env=home,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    _, status, usage = os.wait4(run.pid, 0)
    if status:
        raise SystemExit("the pipeline failed")
    return {
        "seconds": time.perf_counter() - start, "memory": usage.ru_maxrss * 1024,
        "disk": held(folder / "zenml") - before + held(folder / "cache"),
        "forecast_seconds": sum(forecast["seconds"].values()), "forecast_memory": forecast["memory_bytes"],
        "forecast_disk": forecast["disk_bytes"], "steps": seconds_by_step(home),
    }  # fmt: skip


def held(folder: Path) -> int:
    """The bytes of all files in a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
