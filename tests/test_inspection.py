"""The image stats of single files."""

from __future__ import annotations

import os
from pathlib import Path

import imagehash
import numpy as np
import pytest
from bad_files import noise_image
from PIL import Image, ImageFilter, ImageOps

from graft.config.parameters import LimitsConfig
from graft.data.inspection import ImageStats, inspect
from graft.data.workers import inspect_all

LIMITS = LimitsConfig()


def save_and_inspect(image: Image.Image, tmp_path: Path, name: str = "x.png", **options: object) -> ImageStats:
    image.save(tmp_path / name, **options)  # type: ignore[arg-type]
    stats = inspect(tmp_path / name, LIMITS.max_file_bytes, LIMITS.max_pixels)
    assert stats is not None
    return stats


def test_brightness_contrast_and_chroma_are_in_grey_levels(tmp_path: Path) -> None:
    halves = np.zeros((64, 64, 3), np.uint8)
    halves[:, 32:] = 200
    stats = save_and_inspect(Image.fromarray(halves), tmp_path)
    assert stats["brightness"] == pytest.approx(100)
    assert stats["contrast"] == pytest.approx(100, rel=0.03)
    assert stats["chroma"] == 0
    assert save_and_inspect(Image.new("RGB", (64, 64), (90, 60, 20)), tmp_path)["chroma"] == pytest.approx(35)


def test_sharpness_decreases_with_blur(tmp_path: Path) -> None:
    sharp = Image.effect_noise((64, 48), 80).resize((640, 480), Image.Resampling.NEAREST)
    values = [
        float(save_and_inspect(sharp.filter(ImageFilter.GaussianBlur(radius)), tmp_path)["sharpness"])
        for radius in (0, 15, 60)
    ]
    assert values[0] > 2 * values[1] > 10 * values[2]


def test_phash_matches_imagehash_across_sizes_and_formats(tmp_path: Path) -> None:
    image = noise_image(size=(500, 400))
    expected = imagehash.phash(image)
    for name, size in (
        ("a.png", (500, 400)),
        ("b.jpg", (500, 400)),
        ("c.jpg", (250, 200)),
        ("d.webp", (900, 720)),
    ):
        stats = save_and_inspect(image.resize(size), tmp_path, name)
        assert imagehash.hex_to_hash(str(stats["phash"])) - expected <= 4


def test_rotated_image_has_stats_of_upright_image(tmp_path: Path) -> None:
    image = noise_image(size=(400, 300))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = save_and_inspect(image, tmp_path, "a.jpg", quality=95)
    rotated = save_and_inspect(
        ImageOps.exif_transpose(image).rotate(90, expand=True), tmp_path, "b.jpg", quality=95, exif=exif
    )
    assert (rotated["width_px"], rotated["height_px"]) == (400, 300)
    assert imagehash.hex_to_hash(str(rotated["phash"])) - imagehash.hex_to_hash(str(upright["phash"])) <= 4


def test_inspect_returns_none_for_unchanged_content(tmp_path: Path) -> None:
    stats = save_and_inspect(noise_image(), tmp_path)
    assert inspect(tmp_path / "x.png", 10**6, 10**6, str(stats["sha256"])) is None


def test_missing_file_is_reported_as_error(tmp_path: Path) -> None:
    (stats,) = inspect_all(tmp_path, [("gone.png", "")], LIMITS)
    assert stats is not None
    assert stats["error"] == "cannot be read (No such file or directory)"


def test_file_that_changes_while_read_is_reported_as_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise_image().save(tmp_path / "x.png")

    def growing(descriptor: int) -> os.stat_result:
        status = os.stat(descriptor)
        with (tmp_path / "x.png").open("ab") as file:
            file.write(b"more")
        return status

    monkeypatch.setattr("graft.data.bounded_read.os.fstat", growing)
    stats = inspect(tmp_path / "x.png", 10**6, 10**6)
    assert stats is not None
    assert stats["error"] == "changed while it was read"
    assert stats["sha256"] == ""
