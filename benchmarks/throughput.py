"""Images a second in full fine-tuning of MobileNetV2: Graft beside timm, transformers and fastai.

    python benchmarks/throughput.py PHOTOS --weights FILE --rivals FOLDER [--epochs 8] [--pairs 3] [--json FILE]

PHOTOS holds ``train/``. Each side runs in turn in a process of its own, from scratch, at 224 px, with the same
batch, random crops of 60 to 100 % of the area and flips (``benchmarks/rivals/``), two workers where it has them,
and says itself how long training took. Where a side has a switch for bfloat16, it runs with and without. Then
Graft and the fastest of the others run in turn ``--pairs`` times: a shared machine is slower in some minutes. The
others are first installed into environments in FOLDER where they are not yet there. With ``--side``, the
photographs are first enlarged to so many pixels of their short side, as cameras have them.
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

from keeping import keep

SCRIPTS = Path(__file__).parent / "rivals"
RIVALS = {
    "timm": (["timm", "torch", "torchvision"], ["", "fast"]),
    "transformers": (["transformers[torch]", "torch", "torchvision"], ["", "fast"]),
    "fastai": (["fastai", "torch", "torchvision"], [""]),
}


def main() -> None:
    """Time all sides and print images a second, and Graft's ratio to the best."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights", required=True, help="with which Graft begins")
    parser.add_argument("--rivals", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--side", type=int)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="keep the figures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photos = options.photos.resolve()
        if options.side:
            photos = enlarged(photos, Path(folder) / "photos", options.side)
        setting = [str(photos), str(options.epochs), str(options.batch)]
        commands = {"graft": [sys.executable, SCRIPTS / "with_graft.py", *setting, options.weights]}
        for name, (packages, ways) in RIVALS.items():
            python = environment(options.rivals.resolve() / name, packages)
            for way in ways:
                commands[f"{name} {way}".strip()] = [python, SCRIPTS / f"with_{name}.py", *setting, *way.split()]
        print(f"images a second, {options.epochs} epochs, {platform.machine()}, {os.cpu_count()} cores")
        rates: dict[str, list[float]] = {side: [] for side in commands}

        def run(side: str) -> float:
            rates[side].append(rate_of(commands[side]))
            print(f"{side:20} {rates[side][-1]:6.1f}", flush=True)
            keep(rates, options.json)
            return rates[side][-1]

        for side in commands:
            run(side)
        best = max((side for side in commands if side != "graft"), key=lambda side: rates[side][0])
        ratios = []
        for pair in range(options.pairs):
            first, second = ("graft", best) if pair % 2 else (best, "graft")
            found = {first: run(first), second: run(second)}
            ratios.append(found["graft"] / found[best])
    print(
        f"Graft is {statistics.median(ratios):.2f} times as fast as {best} "
        f"({min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} pairs)"
    )


def rate_of(command: Sequence[str | Path]) -> float:
    """Images a second, from what a side says that its training took; with an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env=os.environ | {"GRAFT_CACHE": cache}
        )
    images, seconds = json.loads(done.stdout.splitlines()[-1])
    return float(images / seconds)


def environment(place: Path, packages: list[str]) -> Path:
    """The Python of an environment that has these packages."""
    python = place / "bin" / "python"
    if not python.exists():
        venv.create(place, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def enlarged(photos: Path, target: Path, side: int) -> Path:
    """A folder with the same ``train/``, its photographs with so many pixels of their short side."""
    for path in sorted((photos / "train").rglob("*.*")):
        place = target / path.relative_to(photos)
        place.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            factor = side / min(image.size)
            size = round(image.width * factor), round(image.height * factor)
            image.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(place.with_suffix(".jpg"), quality=90)
    return target


if __name__ == "__main__":
    main()
