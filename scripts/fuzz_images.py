"""Read mutated copies of real files; nothing may crash, hang, or be fit for the scan and not for training.

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

from graft.config import LimitsConfig
from graft.data.images import EXTENSIONS, decode
from graft.data.workers import inspect_all
from graft.errors import DataError

KINDS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP")
BATCH = 500
SIDE_PX = 160
LIMITS = LimitsConfig(max_pixels=4_000_000, max_seconds=10.0)


def seeds(folder: Path, count: int, generator: np.random.Generator) -> list[bytes]:
    """Real files as they are, and small ones of every other format."""
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in EXTENSIONS]
    chosen = [paths[number] for number in generator.permutation(len(paths))[:count]]
    found = [path.read_bytes() for path in chosen]
    for path in chosen:
        image = decode(path.read_bytes()).rgb
        image.thumbnail((SIDE_PX, SIDE_PX))
        for kind in KINDS:
            buffer = io.BytesIO()
            image.save(buffer, kind)
            found.append(buffer.getvalue())
    return found


def mutated(content: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """Bytes flipped, cut, repeated, or grafted from another file; near the header more often than elsewhere."""
    data = bytearray(content)
    for _ in range(int(generator.integers(1, 6))):
        reach = len(data) if generator.random() < 0.5 else min(len(data), 600)
        if reach < 2:
            break
        place, length = int(generator.integers(0, reach)), int(generator.integers(1, 64))
        match int(generator.integers(0, 6)):
            case 0:
                data[place] ^= 1 << int(generator.integers(0, 8))
            case 1:
                data[place : place + length] = generator.bytes(length)
            case 2:
                del data[place : place + length]
            case 3:
                data[place:place] = data[place : place + length] * 3
            case 4:
                data[place : place + length] = b"\xff" * length
            case _:
                data[place:] = other[place:]
    if generator.random() < 0.2:
        del data[int(generator.integers(0, len(data) + 1)) :]
    return bytes(data)


def verdict(content: bytes) -> str:
    """What reading the whole picture says, as training does."""
    try:
        decode(content, LIMITS.max_pixels)
    except DataError:
        return "refused"
    return "decoded"


def main() -> int:
    """Fuzz; the exit code is 1 where a decoder died or hung, or where scan and training disagree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator = np.random.default_rng(options.seed)
    originals = seeds(options.folder, 40, generator)
    counts: Counter[str] = Counter()
    starts = range(0, options.cases, BATCH)
    with tempfile.TemporaryDirectory() as folder:
        for start in tqdm(starts, desc=f"Reading {BATCH} files at a time", disable=None):
            pairs = generator.integers(0, len(originals), (min(BATCH, options.cases - start), 2))
            cases = [mutated(originals[one], originals[other], generator) for one, other in pairs]
            for number, content in enumerate(cases):
                (Path(folder) / str(number)).write_bytes(content)
            tasks = [(str(number), "") for number in range(len(cases))]
            for content, facts in zip(cases, inspect_all(Path(folder), tasks, LIMITS), strict=True):
                counts[judge(content, str(facts["error"]) if facts else "")] += 1
    print(f"{options.cases} cases, seed {options.seed}: {dict(counts)}")
    return int(bool(set(counts) - {"decoded", "refused"}))


def judge(content: bytes, error: str) -> str:
    """What became of a case."""
    if error.startswith(("ends the decoder", "takes longer")):
        return error
    said = verdict(content)
    return said if (said == "refused") == bool(error) else f"scan: {error or 'decoded'}; training: {said}"


if __name__ == "__main__":
    Image.init()
    sys.exit(main())
