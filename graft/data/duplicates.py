"""Near duplicates: pictures whose perceptual hashes differ in few bits, as they are or mirrored.

Two 64-bit hashes that differ in at most d bits agree in at least one of d + 1 bands of bits (the pigeonhole
principle), so that only hashes of one band's bucket are compared: Norouzi et al., "Fast search in Hamming space
with multi-index hashing", 2012. Clusters are the connected components of what is found.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

HASH_BITS = 64
# Mirroring a picture turns the sign of every odd horizontal frequency of its cosine transform, and with it that
# bit of the 8 x 8 hash; of bits whose coefficient is near the median, now and then not.
MIRROR = np.uint64(0x5555555555555555)
PAIRS = 1 << 20
BLOCK = 1 << 22  # comparisons at a time: 32 MiB of differences


def clusters(hashes: pd.Series, max_bits: int) -> np.ndarray:
    """Number the clusters of near duplicates: int64 ``[len(hashes)]``, equal where images belong together.

    ``hashes`` holds 64-bit perceptual hashes in hexadecimal. Time grows with the number of hashes and of
    near pairs, not of all pairs, as long as hashes are spread; memory with the number of hashes.
    """
    if hashes.empty:
        return np.empty(0, dtype=np.int64)
    codes, uniques = pd.factorize(hashes)
    values = np.array([int(one, 16) for one in uniques], dtype=np.uint64)
    labels = np.arange(len(values))
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    for left, right in near_pairs(values, max_bits):
        waiting.append((left, right))
        if sum(len(side) for side, _ in waiting) > PAIRS:  # within dense clusters there are far more than hashes
            labels, waiting = _joined(labels, waiting), []
    return np.asarray(_joined(labels, waiting)[codes], dtype=np.int64)


def _joined(labels: np.ndarray, pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Labels after each pair's are made one."""
    if not pairs:
        return labels
    left, right = (labels[np.concatenate(side)] for side in zip(*pairs, strict=True))
    return np.asarray(components(len(labels), left, right)[labels])


def components(count: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Number the connected components of so many nodes, linked pair by pair: integers ``[count]``."""
    graph = coo_array((np.ones(len(left), dtype=bool), (left, right)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1])


def near_pairs(values: np.ndarray, max_bits: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places of pairs of distinct hashes at most so many bits apart, mirrored or not; a pair may come twice."""
    count = len(values)
    both = np.concatenate([values, values ^ MIRROR])  # a picture and its mirror image
    for low, high in _bands(max_bits + 1):
        band = (both >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.argsort(band, kind="stable")
        starts = np.flatnonzero(np.diff(band[order], prepend=band[order[:1]] + np.uint64(1)))
        for bucket in np.split(order, starts[1:]):
            originals = bucket[bucket < count]
            for left, right in _compare(both, originals, bucket, max_bits):
                other = right % count
                yield left[left != other], other[left != other]


def distance(one: str, other: str) -> int:
    """How many bits of two hexadecimal hashes differ, mirrored or not, whichever is less."""
    difference = np.uint64(int(one, 16) ^ int(other, 16))
    return int(min(np.bitwise_count(difference), np.bitwise_count(difference ^ MIRROR)))


def _compare(
    both: np.ndarray, rows: np.ndarray, columns: np.ndarray, max_bits: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    step = max(1, BLOCK // max(1, len(columns)))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        near = np.bitwise_count(both[part][:, None] ^ both[columns][None, :]) <= max_bits
        left, right = np.nonzero(near)
        yield part[left], columns[right]


def _bands(count: int) -> list[tuple[int, int]]:
    edges = np.linspace(0, HASH_BITS, count + 1).round().astype(int)
    return [(int(low), int(high)) for low, high in pairwise(edges)]
