"""The demo dataset: the handwritten digits bundled with scikit-learn, written as an image folder."""

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
    """Write the digits atomically as ``folder/<digit>/<number>.png``, 8 x 8 px, grey; returns ``folder``.

    ``per_class`` takes a fixed sample of each class; ``None`` takes all 1,797. A folder that already holds as many
    images is left as it is; raises ``DataError`` if it holds another number.
    """
    digits = load_digits()
    if folder.exists():
        existing, requested = len(list(folder.glob("*/*.png"))), per_class * 10 if per_class else len(digits.target)
        if existing == requested:
            return folder
        raise DataError(f"{folder} holds {existing} images instead of {requested}; remove it or name another folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    for digit in range(10):
        (temporary / str(digit)).mkdir()
        indices = np.flatnonzero(digits.target == digit)
        if per_class is not None:
            indices = np.sort(np.random.default_rng([SEED, digit]).permutation(indices)[:per_class])
        for index in indices:
            pixels = np.rint(digits.images[index] * (255 / 16)).astype(np.uint8)
            Image.fromarray(pixels).save(temporary / str(digit) / f"{index:04d}.png")
    temporary.chmod(0o755)
    try:
        temporary.replace(folder)
    except OSError:
        shutil.rmtree(temporary)
        if not folder.exists():
            raise  # else another process has written the same images
    return folder
