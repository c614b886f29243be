"""Perceptual hashes of whole images, of images without their frame, and of windows; and which of them are near.

A hash is the signs of the lowest frequencies of the cosine transform. What is about 0, as most frequencies of stripes,
counts as negative.

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

from graft.data.registration import IDENTITY, SIDE, halve, interpolation, warp

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
        blocks.append(_views(images, thumbnails.astype(np.float32), len(WINDOWS), framed=False))
        blocks.append(_views(images[framed], remove_frames(thumbnails[framed]), 1, framed=True))
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
        keys, query_keys = (hashes >> shift) & mask, (queries >> shift) & mask
        order, query_order = np.argsort(keys, kind="stable"), np.argsort(query_keys, kind="stable")
        # In the order of their keys, what is compared lies together in memory.
        keys, query_keys = keys[order], query_keys[query_order]
        first, last = (np.searchsorted(keys, query_keys, side) for side in ("left", "right"))
        sorted_hashes, sorted_queries = hashes[order], queries[query_order]
        counts = last - first
        ends = np.cumsum(counts)
        start = 0
        while start < len(queries):
            before = ends[start] - counts[start]
            stop = max(start + 1, int(np.searchsorted(ends, before + BLOCK_HASHES, "right")))
            block = counts[start:stop]
            offset = np.repeat(first[start:stop] - (ends[start:stop] - block - before), block)
            right = np.arange(len(offset)) + offset
            bits = np.bitwise_count(np.repeat(sorted_queries[start:stop], block) ^ sorted_hashes[right])
            near = np.flatnonzero(bits <= max_bits)
            left = start + np.searchsorted(ends[start:stop] - before, near, "right")
            yield query_order[left], order[right[near]], bits[near]
            start = stop


def _views(images: np.ndarray, values: np.ndarray, windows: int, *, framed: bool) -> Views:
    """The first ``windows`` views of each image, then its mirror image; ``values`` are float32 ``[n, 64, 64]``."""
    intervals = [np.unique(WINDOWS[:windows, axis::2], axis=0, return_inverse=True) for axis in (0, 1)]
    (columns, column), (rows, row) = ((_cosines(parts), which) for parts, which in intervals)
    count, low = len(images), FREQUENCIES
    shape = (count, len(rows) // low, low, len(columns) // low, low)
    spectra = (rows @ halve(values) @ columns.T).reshape(shape)
    coefficients = spectra[:, row, :, column]  # [windows, count, 8, 8]
    coefficients[:, :, 0, 0] = 0  # the mean grey level
    noise = NOISE * np.abs(coefficients).sum(axis=(2, 3), keepdims=True) / HASH_BITS
    sign = np.where(np.arange(low) % 2, -1, 1)  # of a mirrored cosine
    mirror_image = coefficients[:1] * sign > noise[:1]
    hashes = _pack(np.concatenate([coefficients > noise, mirror_image]))
    window, mirrored = np.arange(windows + 1)[:, None] % windows, np.arange(windows + 1)[:, None] == windows
    grids = np.broadcast_arrays(images, window, framed, mirrored, hashes)
    return Views(*(grid.ravel() for grid in grids))


def _pack(bits: np.ndarray) -> np.ndarray:
    """Bits ``[windows, n, 8, 8]`` as uint64 ``[windows, n]``."""
    flat = np.packbits(bits.reshape(*bits.shape[:2], HASH_BITS), axis=2)
    return np.asarray(flat.view(">u8")[..., 0].astype(np.uint64))


def _cosines(intervals: np.ndarray) -> np.ndarray:
    """The lowest frequencies of the cosine transform of intervals (scale, shift) of a line: ``[8 * n, 32]``."""
    lowest = dct(np.eye(SIDE // 2), axis=0)[:FREQUENCIES]
    resampling = interpolation(SIDE // 2, intervals[:, 0], intervals[:, 1])
    return np.asarray((lowest @ resampling).reshape(-1, SIDE // 2).astype(np.float32))


def _bands(count: int) -> list[tuple[int, int]]:
    edges = np.linspace(0, HASH_BITS, count + 1).round().astype(int)
    return [(int(low), int(high)) for low, high in pairwise(edges)]
