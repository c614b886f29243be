"""What is told of one image file."""

from __future__ import annotations

import os
from pathlib import Path

import imagehash
import numpy as np
import pytest
from bad_files import picture
from PIL import Image, ImageFilter, ImageOps

from graft.config import LimitsConfig
from graft.data.inspection import Facts, inspect
from graft.data.workers import inspect_all

LIMITS = LimitsConfig()


def facts_of(image: Image.Image, tmp_path: Path, name: str = "x.png", **options: object) -> Facts:
    image.save(tmp_path / name, **options)  # type: ignore[arg-type]
    facts = inspect(tmp_path / name, LIMITS.max_file_bytes, LIMITS.max_pixels)
    assert facts is not None
    return facts


def test_brightness_contrast_and_chroma_are_in_levels_of_grey(tmp_path: Path) -> None:
    halves = np.zeros((64, 64, 3), np.uint8)
    halves[:, 32:] = 200
    facts = facts_of(Image.fromarray(halves), tmp_path)
    assert facts["brightness"] == pytest.approx(100)
    assert facts["contrast"] == pytest.approx(100, rel=0.03)
    assert facts["chroma"] == 0
    assert facts_of(Image.new("RGB", (64, 64), (90, 60, 20)), tmp_path)["chroma"] == pytest.approx(35)


def test_blur_is_seen(tmp_path: Path) -> None:
    sharp = Image.effect_noise((64, 48), 80).resize((640, 480), Image.Resampling.NEAREST)
    values = [
        float(facts_of(sharp.filter(ImageFilter.GaussianBlur(radius)), tmp_path)["sharpness"])
        for radius in (0, 15, 60)
    ]
    assert values[0] > 2 * values[1] > 10 * values[2]


def test_a_hash_is_that_of_the_library_and_survives_size_and_format(tmp_path: Path) -> None:
    image = picture(size=(500, 400))
    known = imagehash.phash(image)
    for name, size in (
        ("a.png", (500, 400)),
        ("b.jpg", (500, 400)),
        ("c.jpg", (250, 200)),
        ("d.webp", (900, 720)),
    ):
        facts = facts_of(image.resize(size), tmp_path, name)
        assert imagehash.hex_to_hash(str(facts["phash"])) - known <= 4


def test_a_turned_picture_has_the_facts_of_the_upright_one(tmp_path: Path) -> None:
    image = picture(size=(400, 300))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = facts_of(image, tmp_path, "a.jpg", quality=95)
    turned = facts_of(
        ImageOps.exif_transpose(image).rotate(90, expand=True), tmp_path, "b.jpg", quality=95, exif=exif
    )
    assert (turned["width_px"], turned["height_px"]) == (400, 300)
    assert imagehash.hex_to_hash(str(turned["phash"])) - imagehash.hex_to_hash(str(upright["phash"])) <= 4


def test_a_known_content_is_not_decoded_again(tmp_path: Path) -> None:
    facts = facts_of(picture(), tmp_path)
    assert inspect(tmp_path / "x.png", 10**6, 10**6, str(facts["sha256"])) is None


def test_a_file_that_vanishes_is_told(tmp_path: Path) -> None:
    (facts,) = inspect_all(tmp_path, [("gone.png", "")], LIMITS)
    assert facts is not None
    assert facts["error"] == "cannot be read (No such file or directory)"


def test_a_file_that_changes_while_it_is_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture().save(tmp_path / "x.png")

    def growing(descriptor: int) -> os.stat_result:
        facts = os.stat(descriptor)
        with (tmp_path / "x.png").open("ab") as file:
            file.write(b"more")
        return facts

    monkeypatch.setattr("graft.data.inspection.os.fstat", growing)
    facts = inspect(tmp_path / "x.png", 10**6, 10**6)
    assert facts is not None
    assert facts["error"] == "changed while it was read"
    assert facts["sha256"] == ""
