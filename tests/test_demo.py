"""The demo's images are written once, whole, and always the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from graft.demo import write_digits
from graft.errors import DataError


def test_all_digits_are_written_as_they_are(tmp_path: Path) -> None:
    folder = write_digits(tmp_path / "digits", None)
    assert len(list(folder.glob("*/*.png"))) == 1797
    digits = load_digits()
    pixels = np.asarray(Image.open(folder / "0" / "0000.png"))
    assert np.array_equal(np.rint(pixels / 255 * 16), digits.images[0])
    assert not list(tmp_path.glob(".*"))


def test_a_sample_is_fixed_and_writing_again_changes_nothing(tmp_path: Path) -> None:
    first, second = (write_digits(tmp_path / name, 5) for name in ("a", "b"))
    names = [sorted(path.relative_to(folder) for path in folder.glob("*/*")) for folder in (first, second)]
    assert names[0] == names[1]
    assert len(names[0]) == 50
    before = (first / names[0][0]).stat().st_mtime_ns
    assert write_digits(first, 5) == first
    assert (first / names[0][0]).stat().st_mtime_ns == before


def test_a_folder_of_another_size_is_left_alone(tmp_path: Path) -> None:
    write_digits(tmp_path / "digits", 5)
    with pytest.raises(DataError, match="holds 50 images where 1797 are asked for"):
        write_digits(tmp_path / "digits", None)
