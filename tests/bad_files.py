"""Image files with all kinds of faults, and how a scan and a validation must treat each of them."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

Maker = Callable[[Path], None]


@dataclass(frozen=True)
class BadFile:
    """A file to make, and the expected outcome: ``valid``, the reason of its quarantine, or the reason to skip it.

    ``detail`` is a part of the quarantine's detail; ``warning`` names the check that must warn of it.
    """

    name: str
    make: Maker
    outcome: str = "valid"
    detail: str = ""
    warning: str = ""


def noise_image(seed: int = 0, mode: str = "RGB", size: tuple[int, int] = (60, 48)) -> Image.Image:
    """Coarse noise, different for every seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode)


def sparse_squares(background: int, foreground: int) -> Image.Image:
    """A plain background of which one square in fifty has the colour ``foreground``."""
    pixels = np.where(np.random.default_rng(background).random((20, 20)) < 0.02, foreground, background)
    return Image.fromarray(pixels.astype(np.uint8)).resize((80, 80), Image.Resampling.NEAREST).convert("RGB")


def encode(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def write_bytes(content: bytes) -> Maker:
    def make(path: Path) -> None:
        path.write_bytes(content)

    return make


def save_noise(seed: int, image_format: str, mode: str = "RGB", **options: object) -> Maker:
    return lambda path: noise_image(seed, mode).save(path, image_format, **options)


def png_with_header_size(width: int, height: int) -> bytes:
    """A PNG whose header gives another size than its 100,000 bytes of pixels have."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def save_animation(path: Path) -> None:
    """An animated GIF, as some sites serve in place of a missing image."""
    frames = [noise_image(200 + number) for number in range(40)]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:], loop=0)


def jpeg_with_exif(seed: int, exif: bytes) -> bytes:
    return encode(noise_image(seed), "JPEG", exif=exif)


def save_sixteen_bits(path: Path) -> None:
    Image.fromarray(np.asarray(noise_image(31, "L")).astype(np.uint16) * 257).save(path)


def save_two_pages(path: Path) -> None:
    noise_image(36).save(path, "TIFF", save_all=True, append_images=[noise_image(37)])


def save_endless_directories(path: Path) -> None:
    """A TIFF whose last directory points back to its first."""
    content = bytearray(encode(noise_image(38, "L"), "TIFF"))
    first = struct.unpack("<I", content[4:8])[0]
    entries = struct.unpack("<H", content[first : first + 2])[0]
    content[first + 2 + 12 * entries :][:4] = struct.pack("<I", first)
    path.write_bytes(bytes(content))


JPEG, PNG = encode(noise_image(1), "JPEG", quality=95), encode(noise_image(2), "PNG")
WEBP, GIF = encode(noise_image(3), "WEBP"), encode(noise_image(4), "GIF")
HUGE_EXIF = b"Exif\0\0" + b"MM\0*\0\0\0\x08\0\0" + bytes(60_000)
BROKEN_EXIF = b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\xff" * 200
UNREADABLE = "cannot be decoded"
TEXTS = {
    "text.jpg": b"not an image\n" * 20,
    "page.jpg": b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>" * 3,
    "error.png": b'{"error": "rate limit exceeded", "status": 429}' * 4,
    "drawing.png": b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>' * 3,
    "document.jpg": b"%PDF-1.7\n" + b"0" * 300,
    "archive.jpg": b"PK\x03\x04" + bytes(300),
    "film.jpg": b"\0\0\0\x20ftypisom" + bytes(300),
    "script.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n" + b"showpage\n" * 30,
    "zeros.jpg": bytes(1000),
    "noise.jpg": np.random.default_rng(0).bytes(1000),
    "header.jpg": JPEG[:2] + bytes(500),
    "pointer.png": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n",
}
TRUNCATED = {"jpg": JPEG, "png": PNG, "webp": WEBP, "gif": GIF}

FILES = [
    *(
        BadFile(f"cut_{tenth}0.{suffix}", write_bytes(content[: len(content) * tenth // 10]), UNREADABLE)
        for suffix, content in TRUNCATED.items()
        for tenth in range(1, 10)
    ),
    *(BadFile(name, write_bytes(content), UNREADABLE, "cannot") for name, content in TEXTS.items()),
    BadFile("empty.jpg", write_bytes(b""), UNREADABLE, "is empty"),
    BadFile("png_with_jpg_extension.jpg", save_noise(10, "PNG"), warning="wrong file extension"),
    BadFile("icon.png", save_noise(11, "ICO"), UNREADABLE, "cannot identify"),
    BadFile("jpeg2000.jpg", save_noise(12, "JPEG2000"), UNREADABLE, "cannot identify"),
    BadFile("pixmap.jpg", save_noise(13, "PPM"), UNREADABLE, "cannot identify"),
    BadFile("placeholder.gif", save_animation),
    BadFile("bomb.png", write_bytes(png_with_header_size(60_000, 60_000)), UNREADABLE, "pixels"),
    BadFile("bomb_below_the_limit.png", write_bytes(png_with_header_size(5000, 5000)), UNREADABLE, "truncated"),
    BadFile("empty_header.png", write_bytes(png_with_header_size(0, 0)), UNREADABLE),
    BadFile("huge_exif.jpg", write_bytes(jpeg_with_exif(14, HUGE_EXIF))),
    BadFile("broken_exif.jpg", write_bytes(jpeg_with_exif(15, BROKEN_EXIF))),
    BadFile("broken_icc.jpg", save_noise(16, "JPEG", icc_profile=b"no profile" * 9)),
    BadFile("broken_icc.png", save_noise(17, "PNG", icc_profile=b"no profile" * 9)),
    BadFile("trailing.jpg", write_bytes(encode(noise_image(18), "JPEG") + b"trailing" * 99)),
    BadFile("two_in_one.jpg", write_bytes(encode(noise_image(19), "JPEG") + JPEG)),
    BadFile("progressive.jpg", save_noise(20, "JPEG", progressive=True)),
    BadFile("restart.jpg", save_noise(21, "JPEG", restart_marker_rows=1)),
    BadFile("cmyk.jpg", save_noise(22, "JPEG", "CMYK")),
    BadFile("cmyk.tif", save_noise(23, "TIFF", "CMYK")),
    BadFile("lab.tif", save_noise(24, "TIFF", "LAB")),
    BadFile("ycbcr.tif", save_noise(25, "TIFF", "YCbCr")),
    BadFile("grey_alpha.png", save_noise(26, "PNG", "LA")),
    BadFile("alpha.png", save_noise(27, "PNG", "RGBA")),
    BadFile("palette.png", save_noise(28, "PNG", "P", transparency=0)),
    BadFile("one_bit.png", save_noise(29, "PNG", "1")),
    BadFile("grey.jpg", save_noise(30, "JPEG", "L")),
    BadFile("sixteen_bits.png", save_sixteen_bits),
    BadFile("float.tif", save_noise(32, "TIFF", "F"), UNREADABLE, "floating-point"),
    BadFile("animated.png", save_noise(33, "PNG", save_all=True, append_images=[noise_image(34)])),
    BadFile("animated.webp", save_noise(35, "WEBP", save_all=True, append_images=[noise_image(34)])),
    BadFile("pages.tif", save_two_pages),
    BadFile("endless.tif", save_endless_directories),
    BadFile(
        "one_pixel.png", write_bytes(encode(noise_image(39, size=(1, 1)), "PNG", pnginfo=None) + bytes(60)), "too small"
    ),
    BadFile("thumbnail.png", lambda path: noise_image(40, size=(24, 20)).save(path), "too small", "20 px"),
    BadFile("strip.png", lambda path: noise_image(41, size=(2000, 40)).save(path), "extreme aspect ratio", "50 to 1"),
    BadFile("white.png", lambda path: Image.new("RGB", (90, 90), "white").save(path), "blank", "contrast 0"),
    BadFile("transparent.png", lambda path: Image.new("RGBA", (91, 90), (9, 9, 9, 0)).save(path), "blank"),
    BadFile("night.png", lambda path: sparse_squares(0, 200).save(path), warning="very dark"),
    BadFile("flash.png", lambda path: sparse_squares(255, 40).save(path), warning="very bright"),
    BadFile("fog.png", lambda path: noise_image(44).resize((3, 3)).resize((160, 160), 3).save(path), warning="blurred"),
    BadFile("two\nlines.png", save_noise(45, "PNG")),
    BadFile("\N{HONEYBEE} bee.png", save_noise(46, "PNG")),
    BadFile("n" * 251 + ".png", save_noise(47, "PNG")),
    BadFile(os.fsdecode(b"latin-\xe9.png"), save_noise(48, "PNG"), UNREADABLE, "not valid UTF-8"),
    BadFile('quo"tes, commas;.png', save_noise(49, "PNG")),
    BadFile("\x1b[31mred.png", save_noise(50, "PNG")),
    BadFile("-dash.png", save_noise(51, "PNG")),
    BadFile("SHOUTED.PNG", save_noise(52, "PNG")),
    BadFile("link_to_nothing.png", lambda path: path.symlink_to("nowhere.png"), UNREADABLE, "broken link"),
    BadFile("link_to_itself.png", lambda path: path.symlink_to(path.name), UNREADABLE, "broken link"),
    BadFile("pipe.png", os.mkfifo, UNREADABLE, "not a regular file"),
    BadFile("folder.png", lambda path: path.mkdir(), "ignored"),
    BadFile("link_out.png", lambda path: path.symlink_to("/dev/zero"), "links out of the folder"),
    BadFile("folder_out", lambda path: path.symlink_to("/usr"), "links out of the folder"),
    BadFile("circle", lambda path: path.symlink_to(".."), "circular links"),
    BadFile(".hidden.png", save_noise(53, "PNG"), "hidden files"),
    BadFile("Thumbs.db", write_bytes(bytes(99)), "system files"),
    BadFile("notes.txt", write_bytes(b"notes"), ".txt files"),
    BadFile("phone.heic", write_bytes(bytes(99)), ".heic files"),
    BadFile("README", write_bytes(b"notes"), "other files"),
]


def plant(photographs: Path) -> dict[str, str]:
    """Add faulty images to the training images of ants; returns the name of the check that each must fail, by path."""
    ants = sorted((photographs / "train" / "ants").iterdir())
    bee = sorted((photographs / "train" / "bees").iterdir())[0]
    held_out = sorted((photographs / "val" / "ants").iterdir())[0]
    faults: dict[str, tuple[str, Maker]] = {
        "truncated.jpg": (UNREADABLE, write_bytes(ants[0].read_bytes()[:9000])),
        "empty.jpg": (UNREADABLE, write_bytes(b"")),
        "page.jpg": (UNREADABLE, write_bytes(TEXTS["page.jpg"])),
        "bomb.png": (UNREADABLE, write_bytes(png_with_header_size(60_000, 60_000))),
        "thumbnail.jpg": ("too small", lambda path: Image.open(ants[1]).resize((20, 14)).save(path)),
        "strip.jpg": ("extreme aspect ratio", lambda path: Image.open(ants[2]).resize((1200, 60)).save(path)),
        "blank.png": ("blank", lambda path: Image.new("RGB", (300, 300), "white").save(path)),
        "bee.jpg": ("conflicting labels", write_bytes(bee.read_bytes())),
        "held_out.jpg": ("in two given splits", write_bytes(held_out.read_bytes())),
        "again.jpg": ("exact duplicates", write_bytes(ants[5].read_bytes())),
        "smaller.jpg": (
            "near duplicates",
            lambda path: Image.open(ants[6]).resize((300, 200)).save(path, quality=60),
        ),
        "really_a_png.jpg": ("wrong file extension", lambda path: Image.open(ants[7]).save(path, "PNG")),
        "dark.jpg": ("very dark", lambda path: Image.open(ants[8]).point(lambda v: v // 50).save(path)),
        "soft.jpg": ("blurred", lambda path: Image.open(ants[9]).filter(ImageFilter.GaussianBlur(25)).save(path)),
    }
    for name, (_, make) in faults.items():
        make(photographs / "train" / "ants" / name)
    expected = {f"train/ants/{name}": check for name, (check, _) in faults.items()}
    return expected | {f"train/bees/{bee.name}": "conflicting labels"}
