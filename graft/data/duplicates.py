"""Near duplicates: the same photograph resized, encoded again, mirrored, and cropped, framed or brightened.

Perceptual hashes propose pairs (``graft/data/view_hashes.py``), pixels confirm each (``graft/data/registration.py``),
and clusters are the connected components of confirmed pairs.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from graft.data.registration import same_photograph
from graft.data.view_hashes import WINDOWS, Views, compute_views, near_pairs, remove_frames

CLASS_STRICTNESS = 2.0  # images of two classes must agree this much better: a link doubts their labels
MAX_CANDIDATES = 16  # compared by pixels for each image: of a thousand similar images, not all pairs
MAX_PER_HASH = 4  # images of one hash that are paired with a view
MAX_PENDING = 1 << 21  # pairs before the farthest of each image are dropped
BLOCK_PAIRS = 256  # compared by pixels at a time


def cluster_duplicates(pixels: np.ndarray, rows: np.ndarray, labels: pd.Series, max_bits: int) -> np.ndarray:
    """The cluster number of each image: int64 ``[n]``.

    ``pixels`` are grey thumbnails, uint8 ``[m, 64, 64]``, in memory or mapped. ``rows``, integers ``[n]``, are the one
    of each image: files of the same content share it, and an image without one is -1 and alone. Pairs whose hashes
    differ in at most ``max_bits`` of 64 bits are compared by their pixels. Memory is linear in the number of images;
    so is time if their hashes are spread out.
    """
    rows = np.where(rows < 0, -1 - np.arange(len(rows)), rows)
    codes, contents = pd.factorize(rows)
    classes = pd.factorize(labels)[0][np.unique(codes, return_index=True)[1]]
    compared = np.flatnonzero(contents >= 0)
    views = compute_views(pixels, contents[compared])
    pairs = _propose(views, max_bits)
    left, right = _confirm(pixels, contents[compared], classes[compared], views, pairs)
    clusters = components(len(contents), compared[left], compared[right])
    return clusters[codes].astype(np.int64)


def components(count: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The connected component of each of ``count`` nodes, with edges ``left[i] - right[i]``: integers ``[count]``."""
    graph = coo_array((np.ones(len(left), dtype=bool), (left, right)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1])


def _propose(views: Views, max_bits: int) -> np.ndarray:
    """Pairs of views with near hashes, the second one whole and not mirrored: positions in ``views``, ``[k, 2]``.

    The nearest first, at most ``MAX_CANDIDATES`` for each image.
    """
    whole = views.window == 0
    targets = np.flatnonzero(whole & ~views.mirrored)
    hashes, group = np.unique(views.hashes[targets], return_inverse=True)
    members, sizes = targets[np.argsort(group, kind="stable")], np.bincount(group, minlength=len(hashes))
    first = np.cumsum(sizes) - sizes
    # Copies of one hash form a chain: each is paired with the next few, not all with the first few.
    position = np.zeros(len(views.hashes), dtype=np.int64)
    position[members] = np.arange(len(members)) - np.repeat(first, sizes) + 1
    pending = [np.empty((0, 3), dtype=np.int64)]
    for queries, bits in ((np.flatnonzero(whole), max_bits), (np.flatnonzero(~whole), max_bits * 3 // 4)):
        for query, near, distance in near_pairs(views.hashes[queries], hashes, bits):
            source = queries[query]
            begin = np.where(views.hashes[source] == hashes[near], position[source], 0)
            for offset in range(MAX_PER_HASH):
                inside = begin + offset < sizes[near]
                target = members[(first[near] + begin + offset)[inside]]
                pending.append(np.stack([source[inside], target, distance[inside]], axis=1))
            if sum(map(len, pending)) > MAX_PENDING:
                pending = [_nearest(np.concatenate(pending), views)]
    return _nearest(np.concatenate(pending), views)[:, :2]


def _nearest(pairs: np.ndarray, views: Views) -> np.ndarray:
    """Each pair of images once for each way to compare them, the nearest of each image; columns are views and bits."""
    pairs = pairs[np.argsort(pairs[:, 2], kind="stable")]
    pairs = pairs[views.image[pairs[:, 0]] != views.image[pairs[:, 1]]]
    keys = np.stack(
        [views.image[pairs[:, 0]], views.framed[pairs[:, 0]], views.mirrored[pairs[:, 0]], pairs[:, 1]], axis=1
    )
    frame = pd.DataFrame(keys)
    pairs, frame = pairs[~frame.duplicated()], frame[~frame.duplicated()]
    return np.asarray(pairs[frame.groupby(0).cumcount() < MAX_CANDIDATES])


def _confirm(
    pixels: np.ndarray, rows: np.ndarray, classes: np.ndarray, views: Views, pairs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The images of confirmed pairs; pairs that others already connect are not compared."""
    confirmed = [np.empty((0, 2), dtype=np.int64)]
    clusters = np.arange(len(rows))
    step = max(BLOCK_PAIRS, len(rows) // 4)  # connecting them takes time for each image
    for start in range(0, len(pairs), step):
        chunk = pairs[start : start + step]
        images = views.image[chunk]
        chunk = chunk[clusters[images[:, 0]] != clusters[images[:, 1]]]
        for block in np.array_split(chunk, -(-len(chunk) // BLOCK_PAIRS) or 1):
            same = _compare(pixels, rows, classes, views.take(block[:, 0]), views.take(block[:, 1]))
            confirmed.append(views.image[block[same]])
        clusters = components(len(rows), *np.concatenate(confirmed).T)
    left, right = np.concatenate(confirmed).T
    return left, right


def _compare(pixels: np.ndarray, rows: np.ndarray, classes: np.ndarray, left: Views, right: Views) -> np.ndarray:
    """Whether both views of each pair show the same photograph."""
    source, target = (_thumbnails(pixels, rows, views) for views in (left, right))
    strictness = np.where(classes[left.image] == classes[right.image], 1, CLASS_STRICTNESS)
    return same_photograph(source, target, WINDOWS[left.window], strictness)


def _thumbnails(pixels: np.ndarray, rows: np.ndarray, views: Views) -> np.ndarray:
    """The thumbnail behind each view, without its frame or mirrored if the view is: float32 ``[n, 64, 64]``."""
    thumbnails = pixels[rows[views.image]].astype(np.float32)
    if views.framed.any():
        thumbnails[views.framed] = remove_frames(pixels[rows[views.image[views.framed]]])
    return np.asarray(np.where(views.mirrored[:, None, None], thumbnails[:, :, ::-1], thumbnails))
