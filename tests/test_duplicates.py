"""Near duplicates are copies of one photograph, and nothing else."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from graft.data.duplicates import MAX_CANDIDATES, cluster_duplicates
from graft.data.images import decode
from graft.data.inspection import DRAFT_PX, THUMBNAIL_PX, grey_thumbnail
from graft.data.registration import same_photograph
from graft.data.view_hashes import HASH_BITS, WINDOWS, compute_views, near_pairs

BITS = 8
Edit = Callable[[Image.Image], Image.Image]


def photograph(seed: int, size: tuple[int, int] = (300, 240)) -> Image.Image:
    """Soft blotches and sharp strokes, which differ with the seed."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(30, 200, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(30):
        x, y, width, height = (int(value) for value in generator.integers(0, min(size), 4))
        draw.ellipse(
            (x, y, x + width // 3, y + height // 3), outline=tuple(generator.integers(0, 220, 3).tolist()), width=3
        )
    return image.filter(ImageFilter.GaussianBlur(1))


def thumbnail(image: Image.Image, quality: int = 90) -> np.ndarray:
    """The thumbnail that a scan computes of the image, saved as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    content = grey_thumbnail(decode(buffer.getvalue(), min_side_px=DRAFT_PX).rgb)
    return np.frombuffer(content, np.uint8).reshape(THUMBNAIL_PX, THUMBNAIL_PX)


def clusters(thumbnails: list[np.ndarray], labels: list[str] | None = None, max_bits: int = BITS) -> list[int]:
    pixels = np.stack(thumbnails)
    classes = pd.Series(labels or ["a"] * len(pixels))
    return [int(cluster) for cluster in cluster_duplicates(pixels, np.arange(len(pixels)), classes, max_bits)]


def crop(left: float, top: float, right: float, bottom: float) -> Edit:
    def edit(image: Image.Image) -> Image.Image:
        width, height = image.size
        box = (width * left, height * top, width * (1 - right), height * (1 - bottom))
        return image.crop(tuple(round(side) for side in box))  # type: ignore[arg-type]

    return edit


EDITS: dict[str, Edit] = {
    "resized to half": lambda image: image.resize((image.width // 2, image.height // 2)),
    "squeezed into a square": lambda image: image.resize((224, 224)),
    "cropped in the centre": crop(0.025, 0.025, 0.025, 0.025),
    "cropped from a corner": crop(0.05, 0.05, 0, 0),
    "cropped on each side": crop(0.05, 0.05, 0.05, 0.05),
    "cropped at the left": crop(0.05, 0, 0, 0),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "more contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.2),
    "grey": lambda image: image.convert("L"),
    "mirrored": ImageOps.mirror,
    "white border": lambda image: ImageOps.expand(image, 12, "white"),
    "black border": lambda image: ImageOps.expand(image, 20, "black"),
    "mirrored and resized": lambda image: ImageOps.mirror(image).resize((200, 160)),
}


@pytest.mark.parametrize("name", EDITS)
def test_edited_copies_are_found_and_their_originals_stay_apart(name: str) -> None:
    originals = [photograph(seed) for seed in range(20)]
    copies = [thumbnail(EDITS[name](image)) for image in originals]
    result = clusters([*(thumbnail(image) for image in originals), *copies])
    assert len(set(result[:20])) == 20
    found = [original == copy for original, copy in zip(result[:20], result[20:], strict=True)]
    assert sum(found) >= 19, found
    assert len(set(result)) == 20 + found.count(False)  # no copy joins another original


def test_copies_of_jpeg_quality_30_are_found() -> None:
    originals = [photograph(seed) for seed in range(20)]
    result = clusters([thumbnail(image, quality) for quality in (90, 30) for image in originals])
    assert result[:20] == result[20:]


def test_plain_images_with_the_same_lighting_are_no_duplicates() -> None:
    """All hashes are near, since a gradient decides them; the grain differs."""
    generator = np.random.default_rng(0)
    gradient = np.linspace(60, 180, 256)[None, :, None] * np.ones((256, 1, 3))
    grains = [Image.fromarray(generator.integers(0, 255, (64, 64), dtype=np.uint8)) for _ in range(8)]
    layers = [
        np.asarray(grain.resize((256, 256), Image.Resampling.BICUBIC), dtype=float)[..., None] for grain in grains
    ]
    tiles = [Image.fromarray((gradient + layer / 16).clip(0, 255).astype(np.uint8)) for layer in layers]
    result = clusters([thumbnail(tile) for tile in [*tiles, *tiles]])
    assert len(set(result[:8])) == 8
    assert result[:8] == result[8:]


def test_bands_of_different_width_are_no_duplicates() -> None:
    """As a perceptual hash sees them, stripes differ in few bits."""
    generator = np.random.default_rng(0)
    bands = [np.repeat(generator.integers(0, 255, 24), 12)[None].repeat(288, axis=0) for _ in range(12)]
    assert len(set(clusters([thumbnail(Image.fromarray(band.astype(np.uint8))) for band in bands]))) == 12


def test_an_object_that_was_added_makes_a_different_image() -> None:
    original = photograph(0)
    changed = original.copy()
    ImageDraw.Draw(changed).ellipse((60, 40, 190, 170), fill=(240, 240, 240), outline=(0, 0, 0), width=6)
    assert len(set(clusters([thumbnail(original), thumbnail(changed)]))) == 2


def test_a_pair_of_two_classes_needs_more_evidence() -> None:
    """Two photographs of which one is slightly altered pass for copies within one class only."""
    original = photograph(0)
    generator = np.random.default_rng(0)
    for strength in np.linspace(2, 40, 20):
        noise = Image.fromarray(generator.normal(128, strength, (48, 60)).clip(0, 255).astype(np.uint8))
        layer = np.asarray(noise.resize(original.size, Image.Resampling.BICUBIC), dtype=float)[..., None] - 128
        altered = Image.fromarray((np.asarray(original) + layer).clip(0, 255).astype(np.uint8))
        pair = [thumbnail(original), thumbnail(altered)]
        same_class, two_classes = (len(set(clusters(pair, labels))) == 1 for labels in (["a", "a"], ["a", "b"]))
        assert same_class or not two_classes
        if same_class and not two_classes:
            return
    pytest.fail("both need the same evidence")


def test_images_of_one_file_are_one_cluster_and_images_without_thumbnail_are_alone() -> None:
    pixels = np.stack([thumbnail(photograph(0)), thumbnail(photograph(1))])
    result = cluster_duplicates(pixels, np.array([0, 1, 0, -1, -1]), pd.Series(list("abbab")), BITS).tolist()
    assert result[0] == result[2]
    assert len(set(result)) == 4


def test_images_without_frame_are_hashed() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, THUMBNAIL_PX, THUMBNAIL_PX), dtype=np.uint8)
    views = compute_views(pixels, np.arange(3))
    assert not views.framed.any()
    assert len(views.hashes) == 3 * (len(WINDOWS) + 1)
    whole = views.hashes[(views.window == 0) & ~views.mirrored]
    mirrored = compute_views(pixels[:, :, ::-1], np.arange(3))
    assert (mirrored.hashes[(mirrored.window == 0) & mirrored.mirrored] == whole).all()


def test_no_image_has_no_cluster() -> None:
    empty = np.empty((0, THUMBNAIL_PX, THUMBNAIL_PX), np.uint8)
    assert len(cluster_duplicates(empty, np.empty(0, np.int64), pd.Series([], dtype="str"), BITS)) == 0


def test_blank_images_are_no_duplicates_of_other_images() -> None:
    blank = np.full((THUMBNAIL_PX, THUMBNAIL_PX), 255, np.uint8)
    result = clusters([blank, np.zeros_like(blank), thumbnail(photograph(0))])
    assert result[2] not in result[:2]


def test_hundreds_of_copies_are_one_cluster_with_few_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0

    def count(source: np.ndarray, *others: np.ndarray) -> np.ndarray:
        nonlocal compared
        compared += len(source)
        return same_photograph(source, *others)

    monkeypatch.setattr("graft.data.duplicates.same_photograph", count)
    copies = [thumbnail(photograph(0), quality) for quality in range(30, 95)] * 5
    assert len(set(clusters(copies))) == 1
    assert compared <= MAX_CANDIDATES * len(copies)


any_hash = st.integers(0, 2**HASH_BITS - 1)


@st.composite
def similar_hashes(draw: st.DrawFn) -> list[int]:
    """Hashes, many of which differ from another in few bits."""
    values = draw(st.lists(any_hash, min_size=1, max_size=15))
    for _ in range(draw(st.integers(0, 25))):
        flips = draw(st.sets(st.integers(0, HASH_BITS - 1), max_size=12))
        values.append(draw(st.sampled_from(values)) ^ sum(1 << bit for bit in flips))
    return values


@settings(deadline=None, max_examples=200)
@given(similar_hashes(), st.integers(0, 12))
def test_near_pairs_are_those_of_brute_force(values: list[int], max_bits: int) -> None:
    hashes = np.array(values, dtype=np.uint64)
    found = {
        (int(left), int(right), int(bits))
        for block in near_pairs(hashes, hashes, max_bits)
        for left, right, bits in zip(*block, strict=True)
    }
    distances = {
        (left, right, (values[left] ^ values[right]).bit_count())
        for left in range(len(values))
        for right in range(len(values))
    }
    assert found == {pair for pair in distances if pair[2] <= max_bits}


def test_near_pairs_are_complete_if_compared_in_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    similar = np.array([sum(1 << bit for bit in bits) for bits in combinations(range(10), 3)], dtype=np.uint64)
    expected = {
        (int(a), int(b)) for left, right, _ in near_pairs(similar, similar, 4) for a, b in zip(left, right, strict=True)
    }
    monkeypatch.setattr("graft.data.view_hashes.BLOCK_HASHES", 50)
    found = {
        (int(a), int(b)) for left, right, _ in near_pairs(similar, similar, 4) for a, b in zip(left, right, strict=True)
    }
    assert found == expected
    assert (0, 1) in found
