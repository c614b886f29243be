"""Measures the speed of a scan, compared with a plain loop that only decodes, and its peak memory.

python benchmarks/scan.py PHOTOS      speed, on any folder of images
python benchmarks/scan.py --memory    peak memory with 10,000 and with 100,000 small images
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from graft.config.image_sources import EXTENSIONS
from graft.config.parameters import LimitsConfig
from graft.data.workers import cores

ROUNDS = 3
CHILD = """
import resource, sys
from graft.data.manifest import scan
from graft.data.validation import validate_images
from graft.config.parameters import ValidationConfig
manifest = scan(sys.argv[1])
scanned = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
validate_images(manifest, ValidationConfig(), 5)
validated = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(scanned, validated)
"""


def timed(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def decode_plainly(paths: list[Path]) -> None:
    """Open, decode and convert images to RGB one after the other, as a simple script would."""
    for path in paths:
        with Image.open(path) as image:
            image.convert("RGB")


def speed(root: Path) -> None:
    """Run the plain loop and the scan in turn; each ratio compares times of the same round."""
    from graft.data.manifest import scan

    paths = [path for path in sorted(root.rglob("*")) if path.suffix.lower() in EXTENSIONS]
    decode_plainly(paths)  # warm-up: reads the files into the page cache
    plain, first, second = [], [], []
    for _ in range(ROUNDS):
        plain.append(timed(lambda: decode_plainly(paths)))
        with tempfile.TemporaryDirectory() as cache:
            os.environ["GRAFT_CACHE"] = cache
            first.append(timed(lambda: scan(root, LimitsConfig())))
            second.append(timed(lambda: scan(root, LimitsConfig())))
    ratios = [plain_s / scan_s for plain_s, scan_s in zip(plain, first, strict=True)]
    speedups = [first_s / second_s for first_s, second_s in zip(first, second, strict=True)]
    count = len(paths)
    print(f"{platform.machine()}, {cores()} cores, {count} images, median of {ROUNDS} rounds")
    print(f"plain Pillow loop, one process  {count / statistics.median(plain):8.0f} images/s")
    print(f"graft scan, {cores()} processes         {count / statistics.median(first):8.0f} images/s")
    print(f"ratio per core                  {statistics.median(ratios) / cores():8.2f}  "
          f"({min(ratios) / cores():.2f} to {max(ratios) / cores():.2f})")  # fmt: skip
    print(f"second scan, nothing changed    {statistics.median(speedups):8.0f} times as fast as the first")


def memory() -> None:
    """Peak resident memory of the process that scans and validates."""
    for count in (10_000, 100_000):
        with tempfile.TemporaryDirectory() as folder:
            write_small_images(Path(folder), count)
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", CHILD, folder],
                env=os.environ | {"GRAFT_CACHE": f"{folder}/.cache"}, capture_output=True, text=True, check=True,
            )  # fmt: skip
            seconds = time.perf_counter() - start
            scanned, validated = (int(kib) / 1024 for kib in done.stdout.split()[-2:])
            print(f"{count:7,} images: {scanned:.0f} MiB after the scan, {validated:.0f} MiB after validation, "
                  f"{seconds:.0f} s")  # fmt: skip


def write_small_images(folder: Path, count: int) -> None:
    """Write different random JPEGs of 64 px in ten classes."""
    generator = np.random.default_rng(0)
    for label in range(10):
        (folder / f"class_{label}").mkdir()
    for number in range(count):
        coarse = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC)
        image.save(folder / f"class_{number % 10}" / f"{number}.jpg")


def main() -> None:
    """Run the requested measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="?")
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    if options.photos:
        speed(options.photos)
    if options.memory:
        memory()


if __name__ == "__main__":
    main()
