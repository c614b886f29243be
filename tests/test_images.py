"""Any image file becomes upright RGB in one way, or is refused with a reason."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from graft.errors import DataError
from graft.images import decode, read_rgb

GRADIENT = np.linspace(0, 255, 12 * 8).reshape(12, 8).astype(np.uint8)


def saved(tmp_path: Path, image: Image.Image, name: str, **options: object) -> Path:
    image.save(tmp_path / name, **options)  # type: ignore[arg-type]
    return tmp_path / name


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif", "gif"])
def test_every_format_is_read(tmp_path: Path, suffix: str) -> None:
    pixels = read_rgb(saved(tmp_path, Image.fromarray(GRADIENT), f"x.{suffix}"))
    assert pixels.shape == (12, 8, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - GRADIENT[..., None]).mean() < 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "I;16", "I"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (5, 7))
    pixels = read_rgb(saved(tmp_path, image, "x.tif" if mode in ("CMYK", "YCbCr", "I") else "x.png"))
    assert pixels.shape == (7, 5, 3)


def test_sixteen_bits_keep_their_range(tmp_path: Path) -> None:
    deep = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    pixels = read_rgb(saved(tmp_path, Image.fromarray(deep), "x.png"))
    assert (pixels[..., 0].ravel() == np.arange(256)).all()


def test_what_is_transparent_turns_white(tmp_path: Path) -> None:
    pixels = read_rgb(saved(tmp_path, Image.new("RGBA", (4, 4), (255, 0, 0, 0)), "x.png"))
    assert (pixels == 255).all()


def test_a_transparent_palette_turns_white(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    pixels = read_rgb(saved(tmp_path, image, "x.png", transparency=0))
    assert (pixels == 255).all()


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = read_rgb(saved(tmp_path, Image.fromarray(GRADIENT), "x.jpg", exif=exif, quality=95))
    assert pixels.shape == (8, 12, 3)
    assert pixels[0, -1, 0] < 30


def test_the_first_frame_counts(tmp_path: Path) -> None:
    frames = [Image.new("L", (4, 4), value) for value in (10, 200)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert (read_rgb(tmp_path / "x.gif") == 10).all()


def test_floating_point_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="floating-point"):
        decode(saved(tmp_path, Image.new("F", (4, 4)), "x.tif"))


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.new("1", (20_000, 20_000)), "x.png")
    with pytest.raises(DataError, match="exceeds limit"):
        decode(path)


def test_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    with pytest.raises(DataError, match=r"page\.jpg: cannot be decoded"):
        read_rgb(tmp_path / "page.jpg")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_bytes_give_an_image_or_a_reason_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP"]))
    buffer = BytesIO()
    Image.fromarray(np.stack([GRADIENT] * 3, axis=-1)).save(buffer, kind)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(0, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    try:
        image = decode(path).rgb
    except DataError:
        return
    assert image.mode == "RGB"
    assert image.width > 0
