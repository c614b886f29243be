"""The demo's digits are written atomically and deterministically."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from graft.data.demo_digits import write_digits
from graft.errors import DataError


def test_write_digits_writes_every_digit_unchanged(tmp_path: Path) -> None:
    folder = write_digits(tmp_path / "digits", None)
    assert len(list(folder.glob("*/*.png"))) == 1797
    digits = load_digits()
    pixels = np.asarray(Image.open(folder / "0" / "0000.png"))
    assert np.array_equal(np.rint(pixels / 255 * 16), digits.images[0])
    assert not list(tmp_path.glob(".*"))


def test_write_digits_sample_is_deterministic_and_not_rewritten(tmp_path: Path) -> None:
    first, second = (write_digits(tmp_path / name, 5) for name in ("a", "b"))
    names = [sorted(path.relative_to(folder) for path in folder.glob("*/*")) for folder in (first, second)]
    assert names[0] == names[1]
    assert len(names[0]) == 50
    before = (first / names[0][0]).stat().st_mtime_ns
    assert write_digits(first, 5) == first
    assert (first / names[0][0]).stat().st_mtime_ns == before


def test_write_digits_rejects_folder_with_another_number_of_images(tmp_path: Path) -> None:
    write_digits(tmp_path / "digits", 5)
    with pytest.raises(DataError, match="holds 50 images instead of 1797"):
        write_digits(tmp_path / "digits", None)
