"""Read mutated copies of real images: none may crash or hang a decoder, and scan and training must agree on each.

python scripts/fuzz_images.py photos --cases 20000 --seed 0
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from graft.config.image_sources import EXTENSIONS
from graft.config.parameters import LimitsConfig
from graft.data.images import decode
from graft.data.workers import inspect_all
from graft.errors import DataError

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP")
BATCH = 500
SIDE_PX = 160
LIMITS = LimitsConfig(max_pixels=4_000_000, max_seconds=10.0)


def original_files(folder: Path, count: int, generator: np.random.Generator) -> list[bytes]:
    """Up to ``count`` real files, and a small copy of each in every format."""
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in EXTENSIONS]
    sample = [paths[index] for index in generator.permutation(len(paths))[:count]]
    files = [path.read_bytes() for path in sample]
    for path in sample:
        image = decode(path.read_bytes()).rgb
        image.thumbnail((SIDE_PX, SIDE_PX))
        for image_format in FORMATS:
            buffer = io.BytesIO()
            image.save(buffer, image_format)
            files.append(buffer.getvalue())
    return files


def mutate(content: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """Flip, replace, delete or repeat bytes, or splice in another file; half of the changes are near the header."""
    data = bytearray(content)
    for _ in range(int(generator.integers(1, 6))):
        reach = len(data) if generator.random() < 0.5 else min(len(data), 600)
        if reach < 2:
            break
        start, length = int(generator.integers(0, reach)), int(generator.integers(1, 64))
        match int(generator.integers(0, 6)):
            case 0:
                data[start] ^= 1 << int(generator.integers(0, 8))
            case 1:
                data[start : start + length] = generator.bytes(length)
            case 2:
                del data[start : start + length]
            case 3:
                data[start:start] = data[start : start + length] * 3
            case 4:
                data[start : start + length] = b"\xff" * length
            case _:
                data[start:] = other[start:]
    if generator.random() < 0.2:
        del data[int(generator.integers(0, len(data) + 1)) :]
    return bytes(data)


def outcome(content: bytes, scan_error: str) -> str:
    """``decoded``, ``rejected``, or a description of the failure: a dead or hung decoder, or a disagreement."""
    if scan_error.startswith(("crashes the decoder", "takes longer")):
        return scan_error
    try:
        decode(content, LIMITS.max_pixels)  # at full size, as training does
        result = "decoded"
    except DataError:
        result = "rejected"
    return (
        result if (result == "rejected") == bool(scan_error) else f"scan: {scan_error or 'decoded'}; training: {result}"
    )


def main() -> int:
    """Fuzz; the exit code is 1 if a decoder died or hung, or if scan and training disagree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator = np.random.default_rng(options.seed)
    originals = original_files(options.folder, 40, generator)
    counts: Counter[str] = Counter()
    starts = range(0, options.cases, BATCH)
    with tempfile.TemporaryDirectory() as folder:
        for start in tqdm(starts, desc=f"Reading {BATCH} files at a time", disable=None):
            pairs = generator.integers(0, len(originals), (min(BATCH, options.cases - start), 2))
            cases = [mutate(originals[first], originals[second], generator) for first, second in pairs]
            for number, content in enumerate(cases):
                (Path(folder) / str(number)).write_bytes(content)
            tasks = [(str(number), "") for number in range(len(cases))]
            for content, stats in zip(cases, inspect_all(Path(folder), tasks, LIMITS), strict=True):
                counts[outcome(content, str(stats["error"]) if stats else "")] += 1
    print(f"{options.cases} cases, seed {options.seed}: {dict(counts)}")
    return int(bool(set(counts) - {"decoded", "rejected"}))


if __name__ == "__main__":
    Image.init()
    sys.exit(main())
