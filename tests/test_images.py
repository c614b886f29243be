"""Every image file is decoded to upright RGB, or rejected with a reason."""

from __future__ import annotations

import hashlib
import struct
import zlib
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


def ifd_entry(tag: int, kind: int, count: int, value: bytes) -> bytes:
    return struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")


def exif_block(*entries: bytes) -> bytes:
    """EXIF whose first entry turns the image by 90 degrees."""
    entries = (ifd_entry(0x0112, 3, 1, struct.pack("<H", 6)), *entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


ODD_TAGS = {
    "width as text": ifd_entry(0x0100, 2, 3, b"wide"),
    "negative size": ifd_entry(0x0101, 9, 1, struct.pack("<i", -5)),
    "resolution that is text": ifd_entry(0x011A, 2, 3, b"abc"),
    "resolution without value": ifd_entry(0x011A, 2, 0, b"") + ifd_entry(0x0128, 3, 1, b"\x02\0"),
    "GPS at an impossible place": ifd_entry(0x8825, 4, 1, b"\xff\xff\xff\xff"),
    "float orientation elsewhere": ifd_entry(0x0103, 12, 1, b"\xff\xff\xff\x7f"),
    "unknown type": ifd_entry(0x9999, 99, 1, b"\0"),
}


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("odd_tag", ODD_TAGS)
def test_odd_exif_tag_costs_neither_the_image_nor_its_orientation(tmp_path: Path, suffix: str, odd_tag: str) -> None:
    plain = read_rgb(save(tmp_path, Image.fromarray(GRADIENT), f"plain.{suffix}", lossless=True))
    count = 2 if odd_tag == "resolution without value" else 1
    entries = [ODD_TAGS[odd_tag][12 * number :][:12] for number in range(count)]
    exif = exif_block(*entries)
    path = save(tmp_path, Image.fromarray(GRADIENT), f"odd.{suffix}", exif=exif, lossless=True)
    assert b"II*\0" in path.read_bytes()
    assert (read_rgb(path) == np.rot90(plain, -1)).all()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage" * 5, b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff"]
)
def test_image_with_unreadable_exif_is_read_as_it_is_stored(tmp_path: Path, suffix: str, exif: bytes) -> None:
    plain = read_rgb(save(tmp_path, Image.fromarray(GRADIENT), f"plain.{suffix}", lossless=True))
    path = save(tmp_path, Image.fromarray(GRADIENT), f"odd.{suffix}", exif=b"Exif\0\0" + exif, lossless=True)
    assert (read_rgb(path) == plain).all()


def jpeg_segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


@pytest.mark.parametrize(
    "segment",
    [
        jpeg_segment(0xE0, b"JFIF\0\1"),
        jpeg_segment(0xE2, b"ICC_PROFILE\0"),
        jpeg_segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed"),
        jpeg_segment(0xEE, b"Adobe"),
        jpeg_segment(0xE2, b"MPF\0II*\0\xff\xff\xff\xff"),
        jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0\xff\xfe<broken tiff:Orientation"),
    ],
)
def test_jpeg_with_damaged_application_segment_is_read(tmp_path: Path, segment: bytes) -> None:
    exif = jpeg_segment(0xE1, exif_block())
    content = save(tmp_path, Image.fromarray(GRADIENT), "x.jpg").read_bytes()
    plain = np.asarray(decode(content).rgb)
    assert (np.asarray(decode(content[:2] + exif + segment + content[2:]).rgb) == np.rot90(plain, -1)).all()


def png_chunk(name: bytes, body: bytes, crc: int | None = None) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", crc or zlib.crc32(name + body))


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"iCCP", b"no profile"),
        png_chunk(b"iCCP", b"name\0\x07" + zlib.compress(b"profile")),
        png_chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(2_000_000))),
        png_chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"x" * 2_000_000)),
        png_chunk(b"zTXt", b"comment\0\x09text"),
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"x" * 2_000_000)),
        png_chunk(b"tEXt", b"Comment\0text", crc=1),
        png_chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 9\nnot hexadecimal"),
        png_chunk(b"gAMA", b"\0"),
        png_chunk(b"pHYs", b"\0"),
        png_chunk(b"eXIf", b"\xff" * 9),
    ],
)
def test_png_with_damaged_or_large_text_profile_or_resolution_is_read(tmp_path: Path, chunk: bytes) -> None:
    content = save(tmp_path, Image.fromarray(GRADIENT), "x.png").read_bytes()
    pixels = np.asarray(decode(content[:33] + chunk + content[33:]).rgb)
    assert (pixels == GRADIENT[..., None]).all()


@pytest.mark.parametrize("tag", [(0x011A, 2, 4, b"abc\0"), (0x02BC, 12, 0, b""), (0x8825, 9, 1, b"\xff\xff\xff\xff")])
def test_tiff_with_odd_tag_is_read_upright(tmp_path: Path, tag: tuple[int, int, int, bytes]) -> None:
    content = bytearray(save(tmp_path, Image.fromarray(GRADIENT), "x.tif").read_bytes())
    first = struct.unpack_from("<I", content, 4)[0]
    count = struct.unpack_from("<H", content, first)[0]
    entries = [bytes(content[first + 2 + 12 * number :][:12]) for number in range(count)]
    resolution = [ifd_entry(0x0128, 3, 1, b"\x03\0"), ifd_entry(0x011B, 2, 4, b"abc\0")]
    entries = sorted(
        [*entries, ifd_entry(*tag), *resolution, ifd_entry(0x0112, 3, 1, b"\x06\0")], key=lambda e: e[:2][::-1]
    )
    content[4:8] = struct.pack("<I", len(content))
    content += struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    decoded = decode(bytes(content))
    assert (np.asarray(decoded.rgb) == np.rot90(GRADIENT, -1)[..., None]).all()
    assert (decoded.width_px, decoded.height_px) == (12, 8)


def test_file_with_metadata_and_damaged_pixels_is_rejected_with_its_first_error(tmp_path: Path) -> None:
    content = save(tmp_path, Image.effect_noise((90, 90), 90), "x.jpg", exif=exif_block()).read_bytes()
    with pytest.raises(DataError, match="cannot be decoded: image file is truncated"):
        decode(content[: len(content) // 2])


def test_transparent_grey_value_of_sixteen_bits_becomes_white(tmp_path: Path) -> None:
    values = np.full((4, 4), 30_000, np.uint16)
    values[0] = 1000
    pixels = read_rgb(save(tmp_path, Image.fromarray(values), "x.png", transparency=1000))
    assert (pixels[0] == 255).all()
    assert (pixels[1:] == 117).all()  # 30,000 / 257


def tiff_of_grey(values: np.ndarray, bits: int, photometric: int, data: bytes) -> bytes:
    """A little-endian, uncompressed TIFF of one grey channel."""
    height, width = values.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 279: len(data)}
    entries = [ifd_entry(tag, 4, 1, struct.pack("<I", value)) for tag, value in tags.items()]
    return (
        b"II*\0" + struct.pack("<I", 8 + len(data)) + data
        + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    )  # fmt: skip


def test_sixteen_bit_tiff_whose_white_is_zero_is_inverted_as_with_eight_bits() -> None:
    for bits, kind in ((8, np.uint8), (16, np.uint16)):
        values = (GRADIENT.astype(np.uint32) * (257 if bits == 16 else 1)).astype(kind)
        for photometric, expected in ((0, 255 - GRADIENT), (1, GRADIENT)):
            content = tiff_of_grey(values, bits, photometric, values.tobytes())
            assert (np.asarray(decode(content).rgb) == expected[..., None]).all()


def test_twelve_bit_tiff_uses_the_whole_grey_scale() -> None:
    values = np.array([[0, 4095, 2048, 1024]])
    packed = b"".join(
        bytes([first >> 4, (first & 15) << 4 | second >> 8, second & 255])
        for first, second in ((0, 4095), (2048, 1024))
    )
    decoded = decode(tiff_of_grey(values, 12, 1, packed))
    assert np.asarray(decoded.rgb)[0, :, 0].tolist() == [0, 255, 128, 64]
    assert decoded.used_range == 1


def test_used_range_is_that_of_deep_grey_and_one_otherwise(tmp_path: Path) -> None:
    ten_bits = np.linspace(0, 1023, 64).astype(np.uint16).reshape(8, 8)
    assert decode(save(tmp_path, Image.fromarray(ten_bits), "x.png").read_bytes()).used_range == 1023 / 65535
    assert decode(save(tmp_path, Image.new("L", (8, 8)), "y.png").read_bytes()).used_range == 1
