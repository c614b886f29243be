"""Clusters of near duplicates are the connected components of similar hashes."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bad_files import noise_image
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from graft.data.duplicates import HASH_BITS, cluster_duplicates, hamming_distance
from graft.data.inspection import inspect

any_hash = st.integers(0, 2**HASH_BITS - 1)


@st.composite
def similar_hashes(draw: st.DrawFn) -> list[int]:
    """Hashes, many of which differ from another in few bits."""
    values = draw(st.lists(any_hash, min_size=1, max_size=15))
    for _ in range(draw(st.integers(0, 25))):
        flips = draw(st.sets(st.integers(0, HASH_BITS - 1), max_size=12))
        values.append(draw(st.sampled_from(values)) ^ sum(1 << bit for bit in flips))
    return values


def clusters_by_brute_force(hashes: list[str], max_bits: int) -> list[int]:
    labels = list(range(len(hashes)))
    for left, first in enumerate(hashes):
        for right, second in enumerate(hashes[:left]):
            if hamming_distance(first, second) <= max_bits:
                old, new = labels[left], labels[right]
                labels = [new if label == old else label for label in labels]
    return labels


@settings(deadline=None, max_examples=200)
@given(similar_hashes(), st.integers(0, 12))
def test_cluster_duplicates_matches_brute_force(values: list[int], max_bits: int) -> None:
    hashes = [f"{value:016x}" for value in values]
    clusters, expected = cluster_duplicates(pd.Series(hashes), max_bits), clusters_by_brute_force(hashes, max_bits)
    assert len(clusters) == len(expected) == len(hashes)
    assert len(set(zip(clusters, expected, strict=True))) == len(set(clusters)) == len(set(expected))


def test_cluster_duplicates_of_no_hash_is_empty() -> None:
    assert len(cluster_duplicates(pd.Series([], dtype="str"), 8)) == 0


def test_cluster_duplicates_joins_many_equal_hashes() -> None:
    assert (cluster_duplicates(pd.Series(["00ff" * 4] * 100_000), 8) == 0).all()


def test_cluster_duplicates_joins_dense_chain_of_similar_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graft.data.duplicates.MAX_PENDING_PAIRS", 1000)  # so that labels are merged many times
    similar = [sum(1 << bit for bit in bits) for bits in combinations(range(20), 3)]
    hashes = pd.Series([f"{value:016x}" for value in [*similar, (1 << 64) - 1]])
    clusters = cluster_duplicates(hashes, 6)
    assert len(set(clusters[:-1])) == 1
    assert clusters[-1] != clusters[0]


@pytest.mark.parametrize(
    ("edit", "max_bits"),
    [
        (lambda image: image.resize((250, 200)), 4),
        (lambda image: ImageEnhance.Brightness(image).enhance(0.8), 4),
        (lambda image: image.crop((12, 10, 488, 390)), 16),
        (ImageOps.mirror, 12),
    ],
    ids=["resized", "darker", "cropped", "mirrored"],
)
def test_edited_image_has_similar_hash(tmp_path: Path, edit: object, max_bits: int) -> None:
    def perceptual_hash(image: Image.Image) -> str:
        image.save(tmp_path / "x.jpg", quality=80)
        stats = inspect(tmp_path / "x.jpg", 10**7, 10**7)
        assert stats is not None
        return str(stats["phash"])

    originals = [noise_image(seed, size=(500, 400)) for seed in range(20)]
    hashes = [perceptual_hash(image) for image in originals]
    edited = [perceptual_hash(edit(image)) for image in originals]  # type: ignore[operator]
    assert np.median([hamming_distance(*pair) for pair in zip(hashes, edited, strict=True)]) <= max_bits
    unrelated = [hamming_distance(*pair) for pair in zip(hashes, hashes[1:] + hashes[:1], strict=True)]
    assert min(unrelated) > max_bits
