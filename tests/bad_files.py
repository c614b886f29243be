"""Files as they are found in the wild: each with a maker, and what is to become of it."""

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
class Kind:
    """A file of a name, and its fate: ``fit``, the reason that leaves it out, or the reason that passes it over.

    ``words`` stand in the detail; ``warning`` names the check that tells of it.
    """

    name: str
    make: Maker
    fate: str = "fit"
    words: str = ""
    warning: str = ""


def picture(seed: int = 0, mode: str = "RGB", size: tuple[int, int] = (60, 48)) -> Image.Image:
    """A picture unlike every other: coarse noise, in any mode."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode)


def stars(ground: int, light: int) -> Image.Image:
    """A few squares on a plain ground: one in fifty."""
    sky = np.where(np.random.default_rng(ground).random((20, 20)) < 0.02, light, ground)
    return Image.fromarray(sky.astype(np.uint8)).resize((80, 80), Image.Resampling.NEAREST).convert("RGB")


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def holding(content: bytes) -> Maker:
    def make(path: Path) -> None:
        path.write_bytes(content)

    return make


def saved(seed: int, kind: str, mode: str = "RGB", **options: object) -> Maker:
    return lambda path: picture(seed, mode).save(path, kind, **options)


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def animation(path: Path) -> None:
    """A placeholder of many frames, as sites give it in place of a picture that is gone."""
    frames = [picture(200 + number) for number in range(40)]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:], loop=0)


def with_exif(seed: int, exif: bytes) -> bytes:
    return encoded(picture(seed), "JPEG", exif=exif)


def deep(path: Path) -> None:
    Image.fromarray(np.asarray(picture(31, "L")).astype(np.uint16) * 257).save(path)


def several_pages(path: Path) -> None:
    picture(36).save(path, "TIFF", save_all=True, append_images=[picture(37)])


def endless_directories(path: Path) -> None:
    """A TIFF whose last directory points to its first."""
    content = bytearray(encoded(picture(38, "L"), "TIFF"))
    first = struct.unpack("<I", content[4:8])[0]
    entries = struct.unpack("<H", content[first : first + 2])[0]
    content[first + 2 + 12 * entries :][:4] = struct.pack("<I", first)
    path.write_bytes(bytes(content))


JPEG, PNG = encoded(picture(1), "JPEG", quality=95), encoded(picture(2), "PNG")
WEBP, GIF = encoded(picture(3), "WEBP"), encoded(picture(4), "GIF")
HUGE_EXIF = b"Exif\0\0" + b"MM\0*\0\0\0\x08\0\0" + bytes(60_000)
BROKEN_EXIF = b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\xff" * 200
UNREADABLE = "cannot be decoded"
TEXTS = {
    "text.jpg": b"not a picture\n" * 20,
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
        Kind(f"cut_{tenth}0.{suffix}", holding(content[: len(content) * tenth // 10]), UNREADABLE)
        for suffix, content in TRUNCATED.items()
        for tenth in range(1, 10)
    ),
    *(Kind(name, holding(content), UNREADABLE, "cannot") for name, content in TEXTS.items()),
    Kind("empty.jpg", holding(b""), UNREADABLE, "is empty"),
    Kind("png_named.jpg", saved(10, "PNG"), warning="named as another format"),
    Kind("icon.png", saved(11, "ICO"), UNREADABLE, "cannot identify"),
    Kind("jpeg2000.jpg", saved(12, "JPEG2000"), UNREADABLE, "cannot identify"),
    Kind("pixmap.jpg", saved(13, "PPM"), UNREADABLE, "cannot identify"),
    Kind("placeholder.gif", animation),
    Kind("bomb.png", holding(png_that_claims(60_000, 60_000)), UNREADABLE, "pixels"),
    Kind("bomb_below_the_limit.png", holding(png_that_claims(5000, 5000)), UNREADABLE, "truncated"),
    Kind("claims_nothing.png", holding(png_that_claims(0, 0)), UNREADABLE),
    Kind("huge_exif.jpg", holding(with_exif(14, HUGE_EXIF))),
    Kind("broken_exif.jpg", holding(with_exif(15, BROKEN_EXIF))),
    Kind("broken_icc.jpg", saved(16, "JPEG", icc_profile=b"no profile" * 9)),
    Kind("broken_icc.png", saved(17, "PNG", icc_profile=b"no profile" * 9)),
    Kind("trailing.jpg", holding(encoded(picture(18), "JPEG") + b"trailing" * 99)),
    Kind("two_in_one.jpg", holding(encoded(picture(19), "JPEG") + JPEG)),
    Kind("progressive.jpg", saved(20, "JPEG", progressive=True)),
    Kind("restart.jpg", saved(21, "JPEG", restart_marker_rows=1)),
    Kind("cmyk.jpg", saved(22, "JPEG", "CMYK")),
    Kind("cmyk.tif", saved(23, "TIFF", "CMYK")),
    Kind("lab.tif", saved(24, "TIFF", "LAB")),
    Kind("ycbcr.tif", saved(25, "TIFF", "YCbCr")),
    Kind("grey_alpha.png", saved(26, "PNG", "LA")),
    Kind("alpha.png", saved(27, "PNG", "RGBA")),
    Kind("palette.png", saved(28, "PNG", "P", transparency=0)),
    Kind("one_bit.png", saved(29, "PNG", "1")),
    Kind("grey.jpg", saved(30, "JPEG", "L")),
    Kind("sixteen_bits.png", deep),
    Kind("float.tif", saved(32, "TIFF", "F"), UNREADABLE, "floating-point"),
    Kind("animated.png", saved(33, "PNG", save_all=True, append_images=[picture(34)])),
    Kind("animated.webp", saved(35, "WEBP", save_all=True, append_images=[picture(34)])),
    Kind("pages.tif", several_pages),
    Kind("endless.tif", endless_directories),
    Kind(
        "one_pixel.png", holding(encoded(picture(39, size=(1, 1)), "PNG", pnginfo=None) + bytes(60)), "too small"
    ),
    Kind("thumbnail.png", lambda path: picture(40, size=(24, 20)).save(path), "too small", "20 px"),
    Kind("strip.png", lambda path: picture(41, size=(2000, 40)).save(path), "too long and thin", "50 to 1"),
    Kind("white.png", lambda path: Image.new("RGB", (90, 90), "white").save(path), "blank", "contrast 0"),
    Kind("transparent.png", lambda path: Image.new("RGBA", (91, 90), (9, 9, 9, 0)).save(path), "blank"),
    Kind("night.png", lambda path: stars(0, 200).save(path), warning="very dark"),
    Kind("flash.png", lambda path: stars(255, 40).save(path), warning="very bright"),
    Kind("fog.png", lambda path: picture(44).resize((3, 3)).resize((160, 160), 3).save(path), warning="blurred"),
    Kind("two\nlines.png", saved(45, "PNG")),
    Kind("\N{HONEYBEE} bee.png", saved(46, "PNG")),
    Kind("n" * 251 + ".png", saved(47, "PNG")),
    Kind(os.fsdecode(b"latin-\xe9.png"), saved(48, "PNG"), UNREADABLE, "not valid UTF-8"),
    Kind('quo"tes, commas;.png', saved(49, "PNG")),
    Kind("\x1b[31mred.png", saved(50, "PNG")),
    Kind("-dash.png", saved(51, "PNG")),
    Kind("SHOUTED.PNG", saved(52, "PNG")),
    Kind("link_to_nothing.png", lambda path: path.symlink_to("nowhere.png"), UNREADABLE, "link to nothing"),
    Kind("link_to_itself.png", lambda path: path.symlink_to(path.name), UNREADABLE, "link to nothing"),
    Kind("pipe.png", os.mkfifo, UNREADABLE, "no regular file"),
    Kind("folder.png", lambda path: path.mkdir(), "nothing"),
    Kind("link_out.png", lambda path: path.symlink_to("/dev/zero"), "links out of the folder"),
    Kind("folder_out", lambda path: path.symlink_to("/usr"), "links out of the folder"),
    Kind("circle", lambda path: path.symlink_to(".."), "links in a circle"),
    Kind(".hidden.png", saved(53, "PNG"), "hidden files"),
    Kind("Thumbs.db", holding(bytes(99)), "system files"),
    Kind("notes.txt", holding(b"notes"), ".txt files"),
    Kind("phone.heic", holding(bytes(99)), ".heic files"),
    Kind("README", holding(b"notes"), "other files"),
]


def plant(photographs: Path) -> dict[str, str]:
    """Put faults among the training images of ants; returns the name of the check that must find each, by path."""
    ants = sorted((photographs / "train" / "ants").iterdir())
    bee = sorted((photographs / "train" / "bees").iterdir())[0]
    held_out = sorted((photographs / "val" / "ants").iterdir())[0]
    faults: dict[str, tuple[str, Maker]] = {
        "truncated.jpg": (UNREADABLE, holding(ants[0].read_bytes()[:9000])),
        "empty.jpg": (UNREADABLE, holding(b"")),
        "page.jpg": (UNREADABLE, holding(TEXTS["page.jpg"])),
        "bomb.png": (UNREADABLE, holding(png_that_claims(60_000, 60_000))),
        "thumbnail.jpg": ("too small", lambda path: Image.open(ants[1]).resize((20, 14)).save(path)),
        "strip.jpg": ("too long and thin", lambda path: Image.open(ants[2]).resize((1200, 60)).save(path)),
        "blank.png": ("blank", lambda path: Image.new("RGB", (300, 300), "white").save(path)),
        "bee.jpg": ("conflicting labels", holding(bee.read_bytes())),
        "held_out.jpg": ("in two given splits", holding(held_out.read_bytes())),
        "again.jpg": ("exact duplicates", holding(ants[5].read_bytes())),
        "smaller.jpg": (
            "near duplicates",
            lambda path: Image.open(ants[6]).resize((300, 200)).save(path, quality=60),
        ),
        "really_a_png.jpg": ("named as another format", lambda path: Image.open(ants[7]).save(path, "PNG")),
        "dark.jpg": ("very dark", lambda path: Image.open(ants[8]).point(lambda v: v // 50).save(path)),
        "soft.jpg": ("blurred", lambda path: Image.open(ants[9]).filter(ImageFilter.GaussianBlur(25)).save(path)),
    }
    for name, (_, make) in faults.items():
        make(photographs / "train" / "ants" / name)
    expected = {f"train/ants/{name}": check for name, (check, _) in faults.items()}
    return expected | {f"train/bees/{bee.name}": "conflicting labels"}
