"""Every image file is decoded to upright RGB, or rejected with a reason."""

from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from graft.data.images import decode, read_rgb
from graft.errors import DataError

GRADIENT = np.linspace(0, 255, 12 * 8).reshape(12, 8).astype(np.uint8)


def save(tmp_path: Path, image: Image.Image, name: str, **options: object) -> Path:
    image.save(tmp_path / name, **options)  # type: ignore[arg-type]
    return tmp_path / name


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif", "gif"])
def test_read_rgb_reads_every_format(tmp_path: Path, suffix: str) -> None:
    pixels = read_rgb(save(tmp_path, Image.fromarray(GRADIENT), f"x.{suffix}"))
    assert pixels.shape == (12, 8, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - GRADIENT[..., None]).mean() < 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "I;16", "I"])
def test_read_rgb_converts_every_mode(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (5, 7))
    pixels = read_rgb(save(tmp_path, image, "x.tif" if mode in ("CMYK", "YCbCr", "I") else "x.png"))
    assert pixels.shape == (7, 5, 3)


def test_read_rgb_scales_sixteen_bit_grey_to_eight_bits(tmp_path: Path) -> None:
    pixels_16_bit = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    pixels = read_rgb(save(tmp_path, Image.fromarray(pixels_16_bit), "x.png"))
    assert (pixels[..., 0].ravel() == np.arange(256)).all()


def test_transparent_pixels_become_white(tmp_path: Path) -> None:
    pixels = read_rgb(save(tmp_path, Image.new("RGBA", (4, 4), (255, 0, 0, 0)), "x.png"))
    assert (pixels == 255).all()


def test_transparent_palette_colour_becomes_white(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    pixels = read_rgb(save(tmp_path, image, "x.png", transparency=0))
    assert (pixels == 255).all()


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = read_rgb(save(tmp_path, Image.fromarray(GRADIENT), "x.jpg", exif=exif, quality=95))
    assert pixels.shape == (8, 12, 3)
    assert pixels[0, -1, 0] < 30


def test_animation_is_read_as_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("L", (4, 4), value) for value in (10, 200)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert (read_rgb(tmp_path / "x.gif") == 10).all()


def test_floating_point_image_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="floating-point"):
        decode(save(tmp_path, Image.new("F", (4, 4)), "x.tif").read_bytes())


def test_decode_rejects_too_many_pixels_before_decoding(tmp_path: Path) -> None:
    path = save(tmp_path, Image.new("1", (20_000, 20_000)), "x.png")
    with pytest.raises(DataError, match="exceeds limit"):
        decode(path.read_bytes())
    with pytest.raises(DataError, match="has 12 x 8 pixels, more than the limit of 95"):
        decode(save(tmp_path, Image.fromarray(GRADIENT.T), "y.png").read_bytes(), max_pixels=95)


def test_read_rgb_rejects_file_that_changed_since_scan(tmp_path: Path) -> None:
    path = save(tmp_path, Image.fromarray(GRADIENT), "x.png")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_rgb(path, sha256).shape == (12, 8, 3)
    save(tmp_path, Image.fromarray(255 - GRADIENT), "x.png")
    with pytest.raises(DataError, match=r"x\.png: has changed since it was scanned; run the same command again\.$"):
        read_rgb(path, sha256)
    path.unlink()
    with pytest.raises(DataError, match=r"x\.png: cannot be read \(No such file or directory\)"):
        read_rgb(path, sha256)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_rotated_image_of_any_format_reports_upright_size(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = decode(save(tmp_path, Image.new("RGB", (30, 20)), f"x.{suffix}", exif=exif).read_bytes())
    assert decoded.rgb.size == (decoded.width_px, decoded.height_px) == (20, 30)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_decoded_size_is_that_of_upright_image(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = save(tmp_path, Image.new("RGB", (400, 402)), "x.jpg", exif=exif).read_bytes()
    for decoded in (decode(content), decode(content, min_side_px=64)):
        assert (decoded.width_px, decoded.height_px) == ((402, 400) if orientation > 4 else (400, 402))
    assert decoded.rgb.size == ((101, 100) if orientation > 4 else (100, 101))


def test_decode_rejects_other_formats_of_pillow(tmp_path: Path) -> None:
    Image.fromarray(GRADIENT).save(tmp_path / "x.jpg", "PPM")
    with pytest.raises(DataError, match="cannot identify image file"):
        decode((tmp_path / "x.jpg").read_bytes())


def test_read_rgb_error_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    with pytest.raises(DataError, match=r"page\.jpg: cannot be decoded"):
        read_rgb(tmp_path / "page.jpg")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_decode_of_damaged_bytes_returns_image_or_raises_data_error(data: st.DataObject) -> None:
    image_format = data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP"]))
    buffer = BytesIO()
    Image.fromarray(np.stack([GRADIENT] * 3, axis=-1)).save(buffer, image_format)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(0, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        image = decode(damaged).rgb
    except DataError:
        return
    assert image.mode == "RGB"
    assert image.width > 0
