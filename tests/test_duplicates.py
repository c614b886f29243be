"""Near duplicates are exactly the connected components of hashes that are near."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bad_files import picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from graft.data.duplicates import HASH_BITS, clusters, distance
from graft.data.inspection import inspect

anything = st.integers(0, 2**HASH_BITS - 1)


@st.composite
def crowds(draw: st.DrawFn) -> list[int]:
    """Hashes, many of them a few bits away from another."""
    values = draw(st.lists(anything, min_size=1, max_size=15))
    for _ in range(draw(st.integers(0, 25))):
        flips = draw(st.sets(st.integers(0, HASH_BITS - 1), max_size=12))
        values.append(draw(st.sampled_from(values)) ^ sum(1 << bit for bit in flips))
    return values


def by_comparing_all_pairs(hashes: list[str], max_bits: int) -> list[int]:
    labels = list(range(len(hashes)))
    for left, one in enumerate(hashes):
        for right, other in enumerate(hashes[:left]):
            if distance(one, other) <= max_bits:
                old, new = labels[left], labels[right]
                labels = [new if label == old else label for label in labels]
    return labels


@settings(deadline=None, max_examples=200)
@given(crowds(), st.integers(0, 12))
def test_clusters_are_those_of_comparing_all_pairs(values: list[int], max_bits: int) -> None:
    hashes = [f"{value:016x}" for value in values]
    found, expected = clusters(pd.Series(hashes), max_bits), by_comparing_all_pairs(hashes, max_bits)
    for one in (found, expected):
        assert len(one) == len(hashes)
    assert len(set(zip(found, expected, strict=True))) == len(set(found)) == len(set(expected))


def test_nothing_has_no_cluster() -> None:
    assert len(clusters(pd.Series([], dtype="str"), 8)) == 0


def test_a_crowd_of_the_same_hash_is_one_cluster() -> None:
    assert (clusters(pd.Series(["00ff" * 4] * 100_000), 8) == 0).all()


def test_a_dense_crowd_of_different_hashes_is_one_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graft.data.duplicates.PAIRS", 1000)  # so that pairs are joined many times over
    film = [sum(1 << bit for bit in bits) for bits in combinations(range(20), 3)]
    hashes = pd.Series([f"{value:016x}" for value in [*film, (1 << 64) - 1]])
    found = clusters(hashes, 6)
    assert len(set(found[:-1])) == 1
    assert found[-1] != found[0]


@pytest.mark.parametrize(
    ("edit", "most"),
    [
        (lambda image: image.resize((250, 200)), 4),
        (lambda image: ImageEnhance.Brightness(image).enhance(0.8), 4),
        (lambda image: image.crop((12, 10, 488, 390)), 16),
        (ImageOps.mirror, 12),
    ],
    ids=["resized", "darker", "cropped", "mirrored"],
)
def test_an_edited_picture_is_near(tmp_path: Path, edit: object, most: int) -> None:
    def hashed(image: Image.Image) -> str:
        image.save(tmp_path / "x.jpg", quality=80)
        facts = inspect(tmp_path / "x.jpg", 10**7, 10**7)
        assert facts is not None
        return str(facts["phash"])

    originals = [picture(seed, size=(500, 400)) for seed in range(20)]
    hashes = [hashed(image) for image in originals]
    edited = [hashed(edit(image)) for image in originals]  # type: ignore[operator]
    assert np.median([distance(one, other) for one, other in zip(hashes, edited, strict=True)]) <= most
    strangers = [distance(one, other) for one, other in zip(hashes, hashes[1:] + hashes[:1], strict=True)]
    assert min(strangers) > most
