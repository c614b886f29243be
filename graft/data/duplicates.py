"""Near duplicates: images whose perceptual hashes differ in few bits, directly or mirrored.

Two 64-bit hashes that differ in at most d bits agree in at least one of d + 1 bands of bits (the pigeonhole
principle), so only hashes in the same bucket of a band are compared: Norouzi et al., "Fast search in Hamming space
with multi-index hashing", 2012. Clusters are the connected components of the pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

HASH_BITS = 64
# Mirroring an image flips the sign of every odd horizontal frequency of its cosine transform, and with it these bits
# of the 8 x 8 hash; bits whose coefficient is near the median may not flip.
MIRROR = np.uint64(0x5555555555555555)
MAX_PENDING_PAIRS = 1 << 20  # dense clusters have far more pairs than hashes
BLOCK_SIZE = 1 << 22  # comparisons at a time: 32 MiB of differences


def cluster_duplicates(hashes: pd.Series, max_bits: int) -> np.ndarray:
    """The cluster number of each image: int64 ``[len(hashes)]``.

    ``hashes`` are 64-bit perceptual hashes in hexadecimal. Time is linear in the number of hashes and of near pairs
    if hashes are spread out; memory is linear in the number of hashes.
    """
    if hashes.empty:
        return np.empty(0, dtype=np.int64)
    codes, uniques = pd.factorize(hashes)
    values = np.array([int(value, 16) for value in uniques], dtype=np.uint64)
    labels = np.arange(len(values))
    pending: list[tuple[np.ndarray, np.ndarray]] = []
    for left, right in near_pairs(values, max_bits):
        pending.append((left, right))
        if sum(len(side) for side, _ in pending) > MAX_PENDING_PAIRS:
            labels, pending = _merge(labels, pending), []
    return np.asarray(_merge(labels, pending)[codes], dtype=np.int64)


def _merge(labels: np.ndarray, pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """New labels, equal for both members of each pair."""
    if not pairs:
        return labels
    left, right = (labels[np.concatenate(side)] for side in zip(*pairs, strict=True))
    return np.asarray(components(len(labels), left, right)[labels])


def components(count: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The connected component of each of ``count`` nodes, with edges ``left[i] - right[i]``: integers ``[count]``."""
    graph = coo_array((np.ones(len(left), dtype=bool), (left, right)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1])


def near_pairs(values: np.ndarray, max_bits: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Indices of pairs of hashes at most ``max_bits`` apart, directly or mirrored; a pair may be repeated."""
    count = len(values)
    with_mirrored = np.concatenate([values, values ^ MIRROR])
    for low, high in _bands(max_bits + 1):
        band = (with_mirrored >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.argsort(band, kind="stable")
        starts = np.flatnonzero(np.diff(band[order], prepend=band[order[:1]] + np.uint64(1)))
        for bucket in np.split(order, starts[1:]):
            originals = bucket[bucket < count]
            for left, right in _compare(with_mirrored, originals, bucket, max_bits):
                unmirrored = right % count
                yield left[left != unmirrored], unmirrored[left != unmirrored]


def hamming_distance(first: str, second: str) -> int:
    """The number of bits in which two hexadecimal hashes differ, directly or mirrored, whichever is smaller."""
    difference = np.uint64(int(first, 16) ^ int(second, 16))
    return int(min(np.bitwise_count(difference), np.bitwise_count(difference ^ MIRROR)))


def _compare(
    hashes: np.ndarray, left: np.ndarray, right: np.ndarray, max_bits: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Compare the hashes at the indices ``left`` with those at ``right``, block by block."""
    step = max(1, BLOCK_SIZE // max(1, len(right)))
    for start in range(0, len(left), step):
        block = left[start : start + step]
        near = np.bitwise_count(hashes[block][:, None] ^ hashes[right][None, :]) <= max_bits
        rows, columns = np.nonzero(near)
        yield block[rows], right[columns]


def _bands(count: int) -> list[tuple[int, int]]:
    edges = np.linspace(0, HASH_BITS, count + 1).round().astype(int)
    return [(int(low), int(high)) for low, high in pairwise(edges)]
