"""Perceptual hashes of whole images, of images without their frame, and of windows; and which of them are near.

Two 64-bit hashes that differ in at most d bits agree in at least one of d + 1 bands of bits (the pigeonhole principle),
so only hashes with an equal band are compared: Norouzi et al., "Fast search in Hamming space with multi-index hashing",
2012.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.fft import dct

from graft.data.registration import IDENTITY, SIDE, interpolation, warp

HASH_BITS = 64
FREQUENCIES = 8
# Fractions of width and height, and shift of the centre in halves of a side: all, the centre, each corner, each side.
WINDOWS = np.array(
    [IDENTITY, (0.95, 0.95, 0, 0), (0.9, 0.9, 0, 0), (0.83, 0.83, 0, 0),
     *((0.95, 0.95, x, y) for x in (-0.05, 0.05) for y in (-0.05, 0.05)),
     *((0.95, 1, x, 0) for x in (-0.05, 0.05)), *((1, 0.95, 0, y) for y in (-0.05, 0.05))],
    dtype=np.float32,
)  # fmt: skip
NOISE = 0.01  # of the mean coefficient
MAX_FRAME_PX = 10  # of 64; a wider margin is the background of the subject
MAX_FRAME_RANGE = 16  # grey levels within a line of a frame
BLOCK_IMAGES = 1024
BLOCK_HASHES = 1 << 20  # compared at a time


@dataclass(frozen=True)
class Views:
    """Views of images with their hashes; all arrays ``[n]``.

    ``image`` and ``window`` (of ``WINDOWS``) are integers; ``framed`` says whether the image's frame is removed first,
    ``mirrored`` whether the view is mirrored; ``hashes`` are uint64.
    """

    image: np.ndarray
    window: np.ndarray
    framed: np.ndarray
    mirrored: np.ndarray
    hashes: np.ndarray

    def take(self, chosen: np.ndarray) -> Views:
        """The chosen views, by a mask or by indices."""
        return Views(*(values[chosen] for values in vars(self).values()))


def compute_views(pixels: np.ndarray, rows: np.ndarray) -> Views:
    """All views of the images whose thumbnails, uint8 ``[m, 64, 64]``, are at ``rows``; ``image`` counts these rows."""
    blocks = []
    for start in range(0, len(rows), BLOCK_IMAGES):
        thumbnails = pixels[rows[start : start + BLOCK_IMAGES]]
        images = start + np.arange(len(thumbnails))
        framed = (frames(thumbnails) != IDENTITY).any(axis=1)
        values = thumbnails.astype(np.float32)
        blocks += [_views(images, values, number, framed=False) for number in range(len(WINDOWS))]
        blocks.append(_views(images[framed], remove_frames(thumbnails[framed]), 0, framed=True))
    if not blocks:
        return Views(*(np.empty(0, dtype) for dtype in (np.int64, np.int64, bool, bool, np.uint64)))
    return Views(*(np.concatenate(parts) for parts in zip(*(vars(block).values() for block in blocks), strict=True)))


def frames(thumbnails: np.ndarray) -> np.ndarray:
    """The window of each thumbnail inside its frame of uniform lines; ``IDENTITY`` without one: float32 ``[n, 4]``."""
    windows = np.tile(IDENTITY, (len(thumbnails), 1))
    for axis in (0, 1):
        uniform = np.ptp(thumbnails, axis=axis + 1) <= MAX_FRAME_RANGE  # of columns, then of rows
        # One more line, which mixes frame and image.
        before, after = (np.where(lines[:, 0], lines.argmin(axis=1) + 1, 0) for lines in (uniform, uniform[:, ::-1]))
        wide = (np.maximum(before, after) > MAX_FRAME_PX) | uniform.all(axis=1)
        before, after = np.where(wide, 0, before), np.where(wide, 0, after)
        windows[:, axis] = 1 - (before + after) / SIDE
        windows[:, axis + 2] = (before - after) / SIDE
    return windows


def remove_frames(thumbnails: np.ndarray) -> np.ndarray:
    """The thumbnails without their frames, resampled to the same size: float32 ``[n, 64, 64]``."""
    return warp(thumbnails.astype(np.float32), frames(thumbnails))


def near_pairs(
    queries: np.ndarray, hashes: np.ndarray, max_bits: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Positions of queries and of hashes at most ``max_bits`` apart, and their distance; a pair may be repeated."""
    for low, high in _bands(max_bits + 1):
        shift, mask = np.uint64(low), np.uint64((1 << (high - low)) - 1)
        keys = (hashes >> shift) & mask
        order = np.argsort(keys, kind="stable")
        wanted = (queries >> shift) & mask
        first, last = (np.searchsorted(keys[order], wanted, side) for side in ("left", "right"))
        counts = last - first
        ends = np.cumsum(counts)
        start = 0
        while start < len(queries):
            before = ends[start] - counts[start]
            stop = max(start + 1, int(np.searchsorted(ends, before + BLOCK_HASHES, "right")))
            left = np.repeat(np.arange(start, stop), counts[start:stop])
            right = order[
                np.arange(len(left))
                + np.repeat(first[start:stop] - (ends - counts)[start:stop], counts[start:stop])
                + before
            ]
            bits = np.bitwise_count(queries[left] ^ hashes[right])
            near = bits <= max_bits
            yield left[near], right[near], bits[near]
            start = stop


def _views(images: np.ndarray, values: np.ndarray, window: int, *, framed: bool) -> Views:
    """One view of each image and its mirror image; ``values`` are float32 ``[n, 64, 64]``."""
    count = len(images)
    scale, shift = WINDOWS[window, :2], WINDOWS[window, 2:]
    columns, rows = (
        _cosines() @ interpolation(SIDE, scale[axis : axis + 1], shift[axis : axis + 1])[0] for axis in (0, 1)
    )
    coefficients = rows @ values @ columns.T
    sign = np.where(np.arange(FREQUENCIES) % 2, -1, 1)  # of a mirrored cosine
    hashes = np.concatenate([_hashes(coefficients), _hashes(coefficients * sign)])
    return Views(
        np.tile(images, 2),
        np.full(2 * count, window),
        np.full(2 * count, framed),
        np.repeat([False, True], count),
        hashes,
    )


def _hashes(coefficients: np.ndarray) -> np.ndarray:
    """Which low frequencies are above their median, as ``imagehash.phash``, by more than noise: uint64 ``[n]``."""
    flat = coefficients.reshape(len(coefficients), HASH_BITS)
    median = np.median(flat, axis=1, keepdims=True)
    bits = flat - median > NOISE * np.abs(flat[:, 1:]).mean(axis=1, keepdims=True)  # in stripes, most are about 0
    return np.asarray(np.packbits(bits, axis=1).view(">u8").astype(np.uint64).ravel())


def _cosines() -> np.ndarray:
    """The lowest frequencies of the discrete cosine transform of a line: float32 ``[8, 64]``."""
    return np.asarray(dct(np.eye(SIDE), axis=0)[:FREQUENCIES].astype(np.float32))


def _bands(count: int) -> list[tuple[int, int]]:
    edges = np.linspace(0, HASH_BITS, count + 1).round().astype(int)
    return [(int(low), int(high)) for low, high in pairwise(edges)]
