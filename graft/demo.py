"""The demo's images: scikit-learn's handwritten digits, which come inside the package, as an image folder."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from graft.errors import DataError

SEED = 0


def write_digits(folder: Path, per_class: int | None) -> Path:
    """Write the digits as ``folder/<digit>/<number>.png``, 8 x 8 px, grey; once, whole or not at all.

    ``per_class`` takes a fixed sample of each class; ``None`` takes all 1,797.
    """
    digits = load_digits()
    if folder.exists():
        known, wanted = len(list(folder.glob("*/*.png"))), per_class * 10 if per_class else len(digits.target)
        if known == wanted:
            return folder
        raise DataError(f"{folder} holds {known} images where {wanted} are asked for; remove it or name another.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    for digit in range(10):
        (unfinished / str(digit)).mkdir()
        indices = np.flatnonzero(digits.target == digit)
        if per_class is not None:
            indices = np.sort(np.random.default_rng([SEED, digit]).permutation(indices)[:per_class])
        for index in indices:
            pixels = np.rint(digits.images[index] * (255 / 16)).astype(np.uint8)
            Image.fromarray(pixels).save(unfinished / str(digit) / f"{index:04d}.png")
    unfinished.chmod(0o755)
    try:
        unfinished.replace(folder)
    except OSError:
        shutil.rmtree(unfinished)
        if not folder.exists():
            raise  # else another process was first; its folder is the same
    return folder
