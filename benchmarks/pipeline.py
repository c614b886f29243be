"""The whole training pipeline against a plain loop, as a user starts them: seconds, and accuracy.

    python benchmarks/pipeline.py PHOTOS --weights FILE [--images 4000] [--seeds 3] [--folds] [--json FILE]

PHOTOS holds ``train/`` and ``val/``. The pipeline validates, trains, repeats that in five folds, exports and
registers, with ``configs/photos.yaml``, an empty cache and a ZenML home of its own, whose set-up is not counted.
The plain loop is ``benchmarks/plain_loop.py``. They are timed in turn in one run, each from start to end of its
process. With ``--images``, the training photographs are first made so many by cropping, turning and tinting them.
With ``--folds``, the plain loop runs for its four other folds and for a final model as well, as the pipeline does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torchvision.io import ImageReadMode, read_image, write_jpeg
from torchvision.transforms import v2

from keeping import keep

REPOSITORY = Path(__file__).parents[1]
STEPS = """
import json
import graft.runtime.quiet
from zenml.client import Client
(run,) = Client().list_pipeline_runs(sort_by="desc:created", size=1, hydrate=True).items
print(json.dumps({name: (step.end_time - step.start_time).total_seconds() for name, step in run.steps.items()}))
"""


def main() -> None:
    """Run both for each seed, and print times, their ratio and accuracies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--images", type=int)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folds", action="store_true", help="five folds and a final model of the plain loop too")
    parser.add_argument("--json", type=Path, help="keep the figures here")
    options = parser.parse_args()
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        photos, weights = options.photos.resolve(), options.weights.resolve()
        if options.images:
            photos = multiplied(photos, Path(folder) / "photos", options.images)
        for seed in range(options.seeds):
            *ours, steps = by_graft(photos, weights, seed, Path(folder) / f"seed{seed}")
            plain = by_plain_loop(photos, weights, seed)
            found.append({"seed": seed, "graft": ours, "plain loop": plain, "steps": steps})
            print(f"seed {seed}: pipeline {in_words(*ours)}; plain loop {in_words(*plain)}", flush=True)
            keep(found, options.json)
            if options.folds:
                # A final model of a plain loop is one more run: it, too, needs images to choose its epoch by.
                # Hours go by: what is known already is said and kept after each.
                each = found[-1]["plain folds"] = [plain[0]]
                for fold in (1, 2, 3, 4, 0):
                    each.append(by_plain_loop(photos, weights, seed, fold)[0])
                    ratio = ours[0] / sum(each)
                    print(f"  {len(each)} of 6 plain runs {sum(each):.0f} s: ratio {ratio:.3f}", flush=True)
                    keep(found, options.json)
    count = sum(1 for _ in (options.photos / "train").rglob("*.*")) if not options.images else options.images
    print(f"{count} images to train on, {platform.machine()}, {torch.get_num_threads()} threads; medians:")
    for name in ("graft", "plain loop"):
        seconds, accuracies = zip(*(each[name] for each in found), strict=True)
        print(f"{name:10} {statistics.median(seconds):6.0f} s   mean accuracy {statistics.mean(accuracies):.3f}")
    print(f"ratio      {statistics.median(each['graft'][0] / each['plain loop'][0] for each in found):6.2f}")
    beside = [each["graft"][0] - sum(each["steps"].values()) for each in found]
    named = {name: statistics.median(each["steps"][name] for each in found) for name in found[0]["steps"]}
    print("\nsteps:", ", ".join(f"{name} {seconds:.1f} s" for name, seconds in named.items()))
    print(f"before, between and after them: {statistics.median(beside):.1f} s")
    print(f"of which to import torch and torchvision, as the plain loop does: {seconds_to_import():.1f} s")


def in_words(seconds: float, accuracy: float) -> str:
    """Both."""
    return f"{seconds:.0f} s, accuracy {accuracy:.3f}"


def by_graft(photos: Path, weights: Path, seed: int, home: Path) -> tuple[float, float, dict[str, float]]:
    """Seconds and holdout accuracy of a pipeline that knows nothing yet, and seconds by step."""
    environment = os.environ | {
        "ZENML_CONFIG_PATH": str(home / "zenml"), "GRAFT_CACHE": str(home / "cache"), "NO_COLOR": "1",
    }  # fmt: skip
    graft = Path(sys.executable).with_name("graft")
    subprocess.run([graft, "setup"], cwd=REPOSITORY, env=environment, capture_output=True, check=True)
    start = time.perf_counter()
    command = [str(graft), "run", *configured(photos, weights, seed)]
    subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, check=True)
    seconds = time.perf_counter() - start
    said = subprocess.run(
        [graft, "summary"], cwd=REPOSITORY, env=environment, capture_output=True, check=True, text=True
    ).stdout
    return seconds, float(said.split("Holdout")[1].split()[0]), seconds_by_step(environment)


def configured(photos: Path, weights: Path, seed: int) -> list[str]:
    """The config for photographs, as words of a command."""
    settings = {"data.root": photos, "model.weights": weights, "seed": seed}
    chosen = (("--set", f"{key}={value}") for key, value in settings.items())
    return ["configs/photos.yaml", *chain.from_iterable(chosen)]


def seconds_by_step(environment: dict[str, str]) -> dict[str, float]:
    """Of the last run there."""
    steps = subprocess.run(
        [sys.executable, "-c", STEPS], cwd=REPOSITORY, env=environment, capture_output=True, check=True, text=True
    ).stdout
    found: dict[str, float] = json.loads(steps.splitlines()[-1])
    return found


def by_plain_loop(photos: Path, weights: Path, seed: int, fold: int = 0) -> tuple[float, float]:
    """Seconds and holdout accuracy of the plain loop."""
    script = REPOSITORY / "benchmarks" / "plain_loop.py"
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, script, photos, "--weights", weights, "--seed", str(seed), "--fold", str(fold)],
        capture_output=True, check=True, text=True,
    )  # fmt: skip
    return time.perf_counter() - start, float(json.loads(done.stdout)["accuracy"])


def seconds_to_import() -> float:
    """Of the fastest of three processes that import torch and torchvision and end."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import torch, torchvision"], check=True)
        times.append(time.perf_counter() - start)
    return min(times)


def multiplied(photos: Path, target: Path, count: int) -> Path:
    """A folder with the same ``val/``, and so many edits of the photographs in ``train/``."""
    originals = sorted(path for path in (photos / "train").rglob("*.*") if path.is_file())
    with ProcessPoolExecutor(initializer=torch.set_num_threads, initargs=(1,)) as processes:
        numbers = range(count)
        sources = (originals[number % len(originals)] for number in numbers)
        list(processes.map(partial(edit, target / "train"), sources, numbers, chunksize=64))
    shutil.copytree(photos / "val", target / "val")  # a link out of the folder is no part of the data
    return target


def edit(target: Path, source: Path, number: int) -> None:
    """Write a photograph, cropped, turned and tinted by its number, into the folder of its class."""
    torch.manual_seed(number)
    change = v2.Compose([
        v2.RandomResizedCrop(320, scale=(0.3, 0.9), antialias=True), v2.RandomRotation(25),
        v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
    ])  # fmt: skip
    place = target / source.parent.name
    place.mkdir(parents=True, exist_ok=True)
    edited = change(read_image(str(source), ImageReadMode.RGB))
    write_jpeg(edited, str(place / f"{number:05}.jpg"), quality=90)


if __name__ == "__main__":
    main()
