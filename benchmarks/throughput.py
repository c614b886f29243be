"""Compares images per second in full fine-tuning of MobileNetV2: Graft, timm, transformers and fastai.

    python benchmarks/throughput.py PHOTOS --weights FILE --baselines FOLDER [--epochs 8] [--pairs 3] [--json FILE]

PHOTOS contains ``train/``. Each trainer (``benchmarks/baselines/``) runs in turn in a separate process, at 224 px, with
the same batch size, random crops of 60 to 100 % of the area and flips, with two workers if it has workers, and reports
how long its training took. A trainer that has an option for bfloat16 runs with and without it. Then Graft and the
fastest baseline run in turn ``--pairs`` times, because a machine with shared cores is slower at some times than at
others. Baselines are installed into virtual environments in FOLDER unless they are there already. With ``--side``, the
photographs are first enlarged to that many pixels on the short side, as cameras take them.
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
import venv
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from saving import save_results

SCRIPTS = Path(__file__).parent / "baselines"
BASELINES = {
    "timm": (["timm", "torch", "torchvision"], ["", "fast"]),
    "transformers": (["transformers[torch]", "torch", "torchvision"], ["", "fast"]),
    "fastai": (["fastai", "torch", "torchvision"], [""]),
}


def main() -> None:
    """Time all trainers, and print images per second and Graft's ratio to the fastest baseline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights", required=True, help="pretrained weights, used by Graft only")
    parser.add_argument("--baselines", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--side", type=int)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="save the results to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photos = options.photos.resolve()
        if options.side:
            photos = enlarge(photos, Path(folder) / "photos", options.side)
        arguments = [str(photos), str(options.epochs), str(options.batch)]
        commands = {"graft": [sys.executable, SCRIPTS / "with_graft.py", *arguments, options.weights]}
        for name, (packages, modes) in BASELINES.items():
            python = create_environment(options.baselines.resolve() / name, packages)
            for mode in modes:
                commands[f"{name} {mode}".strip()] = [python, SCRIPTS / f"with_{name}.py", *arguments, *mode.split()]
        print(f"images per second, {options.epochs} epochs, {platform.machine()}, {os.cpu_count()} cores")
        results: dict[str, list[float]] = {name: [] for name in commands}

        def run(name: str) -> float:
            results[name].append(images_per_second(commands[name]))
            print(f"{name:20} {results[name][-1]:6.1f}", flush=True)
            save_results(results, options.json)
            return results[name][-1]

        for name in commands:
            run(name)
        fastest = max((name for name in commands if name != "graft"), key=lambda name: results[name][0])
        ratios = []
        for pair in range(options.pairs):
            order = ("graft", fastest) if pair % 2 else (fastest, "graft")
            rates = {name: run(name) for name in order}
            ratios.append(rates["graft"] / rates[fastest])
    print(
        f"Graft is {statistics.median(ratios):.2f} times as fast as {fastest} "
        f"({min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} pairs)"
    )


def images_per_second(command: Sequence[str | Path]) -> float:
    """Run a trainer with an empty cache; returns its images per second of training."""
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env=os.environ | {"GRAFT_CACHE": cache}
        )
    images, seconds = json.loads(done.stdout.splitlines()[-1])
    return float(images / seconds)


def create_environment(path: Path, packages: list[str]) -> Path:
    """Create a virtual environment with these packages unless it exists; returns its Python."""
    python = path / "bin" / "python"
    if not python.exists():
        venv.create(path, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def enlarge(photos: Path, target: Path, side: int) -> Path:
    """Create a folder with the photographs in ``train/``, enlarged to ``side`` pixels on the short side."""
    for source in sorted((photos / "train").rglob("*.*")):
        path = target / source.relative_to(photos)
        path.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(source) as image:
            factor = side / min(image.size)
            size = round(image.width * factor), round(image.height * factor)
            image.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(path.with_suffix(".jpg"), quality=90)
    return target


if __name__ == "__main__":
    main()
