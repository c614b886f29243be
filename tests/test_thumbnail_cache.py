"""Thumbnails of a scan are found again, and computed again where they are lost."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from graft.data.images import decode
from graft.data.inspection import THUMBNAIL_PX, grey_thumbnail
from graft.data.manifest import Manifest, scan
from graft.data.thumbnail_cache import ThumbnailCache


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "thumbnails"


def load(manifest: Manifest) -> np.ndarray:
    """The thumbnail of each image."""
    pixels, positions = ThumbnailCache(manifest.root).load(manifest.folder(), manifest.table)
    assert (positions >= 0).all()
    return np.asarray(pixels[positions])


def expected(manifest: Manifest) -> np.ndarray:
    contents = [(manifest.folder() / path).read_bytes() for path in manifest.table["path"]]
    thumbnails = [grey_thumbnail(decode(content, min_side_px=THUMBNAIL_PX).rgb) for content in contents]
    return np.frombuffer(b"".join(thumbnails), np.uint8).reshape(-1, THUMBNAIL_PX, THUMBNAIL_PX)


def test_thumbnails_of_a_scan_are_loaded_without_decoding(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = scan(shapes)
    monkeypatch.setattr("graft.data.thumbnail_cache.inspect_all", None)
    assert (load(manifest) == expected(manifest)).all()


def test_a_second_scan_adds_new_images_and_drops_removed_ones(shapes: Path, cache: Path) -> None:
    scan(shapes)
    (shapes / "red" / "0.png").unlink()
    Image.effect_noise((80, 60), 60).save(shapes / "red" / "new.png")
    manifest = scan(shapes)
    (file,) = cache.iterdir()
    assert file.stat().st_size == 24 * (64 + THUMBNAIL_PX**2)
    assert (load(manifest) == expected(manifest)).all()


@pytest.mark.parametrize("content", [None, b"", b"broken"], ids=["lost", "empty", "cut off"])
def test_lost_or_damaged_thumbnails_are_computed_again(shapes: Path, cache: Path, content: bytes | None) -> None:
    manifest = scan(shapes)
    (file,) = cache.iterdir()
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    assert (load(manifest) == expected(manifest)).all()
    assert [path.name for path in cache.iterdir()] == [file.name]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_thumbnails_are_loaded_if_the_cache_cannot_be_written(shapes: Path, cache: Path) -> None:
    cache.mkdir(parents=True)
    cache.chmod(0o500)
    manifest = scan(shapes)
    assert (load(manifest) == expected(manifest)).all()
    cache.chmod(0o700)


def test_a_file_in_place_of_the_cache_folder_is_no_error(shapes: Path, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("not a folder")
    manifest = scan(shapes)
    assert (load(manifest) == expected(manifest)).all()


def test_an_image_that_is_gone_has_no_thumbnail(shapes: Path, cache: Path) -> None:
    manifest = scan(shapes)
    (file,) = cache.iterdir()
    file.unlink()
    (shapes / "red" / "0.png").unlink()
    _, positions = ThumbnailCache(manifest.root).load(manifest.folder(), manifest.table)
    assert manifest.table["path"][positions < 0].tolist() == ["red/0.png"]


def test_images_of_equal_content_share_a_thumbnail(shapes: Path) -> None:
    (shapes / "red" / "copy.png").write_bytes((shapes / "red" / "0.png").read_bytes())
    manifest = scan(shapes)
    _, positions = ThumbnailCache(manifest.root).load(manifest.folder(), manifest.table)
    position = pd.Series(positions, index=manifest.table["path"])
    assert position["red/copy.png"] == position["red/0.png"]
