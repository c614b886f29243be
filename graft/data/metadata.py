"""Metadata of image files, of which only the EXIF orientation matters: no damage to it may cost the picture.

Needs only Pillow. Most of Pillow's plugins parse metadata as they open a file and refuse all of it for one odd value;
``strip_metadata`` makes such a file readable.
"""

from __future__ import annotations

import struct

from PIL import Image

ORIENTATION, UPRIGHT, SIDEWAYS = 0x0112, 1, (5, 6, 7, 8)  # the EXIF tag, and values; the last swap width and height
TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# TIFF 6.0: what describes pixels, and the orientation; the rest is about resolution, software, place and time.
TIFF_PIXEL_TAGS = frozenset(
    {*range(254, 260), 262, 266, 273, 274, *range(277, 280), 284, 292, 293, 317, *range(320, 326), 332, 338, 339, 347}
    | {*range(512, 522), *range(529, 533)}
)


def orientation(image: Image.Image, exif: bytes | None = None) -> int:
    """The EXIF orientation, 1 to 8, of an open image or of a block of EXIF; 1 if it is missing or unreadable."""
    try:
        tags = image.getexif()
        if exif:
            tags.load(exif)
        value = tags.get(ORIENTATION, UPRIGHT)
        return int(value) if value in TRANSPOSITIONS else UPRIGHT
    # Damaged EXIF and XMP raise errors of almost any type.
    except Exception:
        return UPRIGHT


def strip_metadata(content: bytes) -> tuple[bytes, bytes]:
    """A JPEG, PNG or TIFF without what no pixel needs, and its EXIF block (empty if the file still contains it)."""
    if content.startswith(b"\xff\xd8"):
        return _strip_jpeg(content)
    if content.startswith(PNG_SIGNATURE):
        return _strip_png(content)
    if content.startswith((b"II*\0", b"MM\0*")):
        return _strip_tiff(content), b""
    return content, b""


def _strip_jpeg(content: bytes) -> tuple[bytes, bytes]:
    """Without application segments and comments; those of JFIF and Adobe decide how colours are stored."""
    kept, start = [content[:2]], 2
    exif: list[bytes] = []
    while content[start : start + 1] == b"\xff" and content[start + 1 : start + 2] not in (b"", b"\xda"):
        marker, end = content[start + 1], start + 2 + int.from_bytes(content[start + 2 : start + 4])
        body = content[start + 4 : end]
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            exif.append(body[6 if exif else 0 :])
        colour = (marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14) or (
            marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12
        )
        if colour or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(content[start:end])
        start = end
    return b"".join([*kept, content[start:]]), b"".join(exif)


def _strip_png(content: bytes) -> tuple[bytes, bytes]:
    """Without ancillary chunks, whose names begin with a small letter, except transparency."""
    kept, exif, start = [PNG_SIGNATURE], b"", len(PNG_SIGNATURE)
    while start + 8 <= len(content):
        length, name = struct.unpack(">I4s", content[start : start + 8])
        end = start + 12 + length
        if name == b"eXIf":
            exif = content[start + 8 : end - 4]
        if name == b"tRNS" or name[:1].isupper():
            kept.append(content[start:end])
        start = end
    return b"".join(kept), exif


def _strip_tiff(content: bytes) -> bytes:
    """With only the first page, and of its tags only those that describe pixels."""
    order = "<" if content.startswith(b"II") else ">"
    try:
        (first,) = struct.unpack_from(f"{order}I", content, 4)
        (count,) = struct.unpack_from(f"{order}H", content, first)
        entries = [content[first + 2 + 12 * index :][:12] for index in range(count)]
        kept = [entry for entry in entries if struct.unpack_from(f"{order}H", entry)[0] in TIFF_PIXEL_TAGS]
    except struct.error:  # truncated
        return content
    directory = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + bytes(4)
    return content[:first] + directory + content[first + len(directory) :]
