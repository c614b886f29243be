"""Groups never straddle a boundary, and no image moves another across the holdout's."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.config import SplitConfig
from graft.data.manifest import COLUMNS, Manifest
from graft.data.splits import Split, cut_folds, split_images
from graft.errors import DataError

CONFIG = SplitConfig()
Image = tuple[str, str]  # a label and a perceptual hash


def manifest(images: list[Image], **columns: str) -> Manifest:
    rows = [
        {
            **{name: "" if kind == "str" else 0 for name, kind in COLUMNS.items()},
            **{"path": f"{label}/{number}", "label": label, "sha256": f"{phash}-{number}", "phash": phash},
            **columns,
        }
        for number, (label, phash) in enumerate(images)
    ]
    return Manifest(pd.DataFrame(rows).astype(COLUMNS), "")


def split(known: Manifest, near: Mapping[str, int] | None = None, config: SplitConfig = CONFIG) -> Split:
    """Split where equal hashes cluster, and those to which ``near`` gives the same number."""
    hashes = known.table["phash"]
    names = hashes.map(lambda phash: str(near[phash]) if near and phash in near else phash)
    clusters = pd.factorize(names)[0]
    return split_images(known, dict(zip(known.table["path"], clusters, strict=True)), config)


def joined(*manifests: Manifest) -> Manifest:
    tables = [one.table.assign(path=one.table["path"] + f"#{n}") for n, one in enumerate(manifests)]
    return Manifest(pd.concat(tables, ignore_index=True), "")


# Large enough that every part holds an image of every class.
crowd = [(label, f"{label}{number:04d}") for label in ("a", "b", "c") for number in range(60)]
hashes = [phash for _, phash in crowd]
more = st.lists(st.tuples(st.sampled_from("abc"), st.text("0123456789", min_size=1, max_size=3)), max_size=30)
# Some images, known or new, that turn out to be near duplicates of each other.
nearness = st.dictionaries(
    st.one_of(st.sampled_from(hashes), st.text("0123456789", min_size=1, max_size=3)),
    st.integers(0, 9),
    max_size=20,
)


def parts(images: list[Image], near: Mapping[str, int] | None = None) -> dict[str, str]:
    known = manifest(images)
    table = split(known, near).table.merge(known.table[["path", "phash"]], on="path")
    return dict(zip(table["phash"], table["part"], strict=True))


def held_out(images: list[Image], near: Mapping[str, int] | None = None) -> dict[str, bool]:
    return {phash: part == "holdout" for phash, part in parts(images, near).items()}


@settings(deadline=None, max_examples=50)
@given(more)
def test_new_images_move_no_other(images: list[Image]) -> None:
    before, after = parts(crowd), parts(crowd + images)
    assert {phash: after[phash] for phash in before} == before


@settings(deadline=None, max_examples=50)
@given(st.sets(st.integers(0, len(crowd) - 1), max_size=30))
def test_images_that_go_move_no_other(gone: set[int]) -> None:
    after = parts([image for number, image in enumerate(crowd) if number not in gone])
    assert after.items() <= parts(crowd).items()


@settings(deadline=None, max_examples=50)
@given(more, nearness)
def test_new_near_duplicates_move_no_other_across_the_holdout(images: list[Image], near: dict[str, int]) -> None:
    before, after = held_out(crowd), held_out(crowd + images, near)
    assert {phash: after[phash] for phash in before} == before


@settings(deadline=None, max_examples=50)
@given(st.permutations(range(len(crowd))))
def test_renaming_moves_no_image(order: list[int]) -> None:
    assert parts([crowd[number] for number in order]) == parts(crowd)


@settings(deadline=None, max_examples=50)
@given(more, nearness, st.integers(2, 6), st.integers(0, 99))
def test_groups_never_straddle_parts_or_folds(
    images: list[Image], near: dict[str, int], folds: int, seed: int
) -> None:
    drawn = split(manifest(crowd + images), near)
    used = drawn.table[drawn.table["part"] != "excluded"]
    assert used.groupby("group")["part"].nunique().max() == 1
    cut = cut_folds(drawn, folds, seed).table.merge(drawn.table[["path", "group"]], on="path")
    assert cut.groupby("group")["fold"].nunique().max() == 1
    assert set(cut["path"]) == set(drawn.rows("train", "validation")["path"])


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 8), st.integers(0, 99))
def test_folds_are_balanced_where_groups_are_single(folds: int, seed: int) -> None:
    table = cut_folds(split(manifest(crowd)), folds, seed).table
    counts = table.groupby(["label", "fold"]).size().unstack()
    assert (counts.max(axis=1) - counts.min(axis=1)).max() <= 1


@settings(deadline=None, max_examples=50)
@given(st.randoms(use_true_random=False))
def test_the_order_of_files_changes_nothing(random: object) -> None:
    known = manifest(crowd)
    shuffled = known.table.sample(frac=1, random_state=random.randrange(2**31))  # type: ignore[attr-defined]
    first, second = (cut_folds(split(one), 5, 0).table for one in (known, Manifest(shuffled, "")))
    pd.testing.assert_frame_equal(first, second)


def test_a_fold_trains_validates_and_tests_on_different_images() -> None:
    folds = cut_folds(split(manifest(crowd)), 5, 0)
    for fold in range(5):
        train, validation, test = (set(rows["path"]) for rows in folds.rows(fold))
        assert not train & validation
        assert not (train | validation) & test
        assert train | validation | test == set(folds.table["path"])


def test_near_duplicates_of_held_out_images_are_left_out_unless_they_are_to_be_kept() -> None:
    alone = parts(crowd)
    inside = next(phash for phash in hashes if alone[phash] == "holdout")
    outside = next(phash for phash in hashes if alone[phash] == "train")
    near = {inside: 1, outside: 1}
    assert parts(crowd, near) == alone | {outside: "excluded"}
    kept = split(manifest(crowd), near, SplitConfig(on_leak="keep"))
    assert kept.rows("excluded").empty


def test_a_given_group_stays_together_whatever_its_pictures_look_like() -> None:
    patients = [manifest([("ab"[n % 2], f"{n}-{k}") for k in range(5)], given_group=f"p{n}") for n in range(60)]
    drawn = split(joined(*patients))
    assert drawn.table.groupby("group").size().eq(5).all()
    assert drawn.table.groupby("group")["part"].nunique().max() == 1
    assert drawn.rows("excluded").empty


def test_a_given_val_is_the_holdout_and_its_copies_are_left_out_of_training() -> None:
    given_val = manifest([("a", "a0001"), ("b", "new"), ("c", "newer")], given_split="val")
    drawn = split(joined(manifest(crowd, given_split="train"), given_val))
    assert set(drawn.rows("holdout")["path"]) == {"a/0#1", "b/1#1", "c/2#1"}
    assert drawn.rows("excluded")["group"].tolist() == ["a0001"]


def test_a_given_test_is_the_holdout_and_val_validates() -> None:
    others = [manifest([("a", f"{name}1")], given_split=name) for name in ("val", "test")]
    drawn = split(joined(manifest(crowd, given_split="train"), *others))
    assert drawn.rows("holdout")["path"].tolist() == ["a/0#2"]
    assert drawn.rows("validation")["path"].tolist() == ["a/0#1"]
    assert drawn.unjudged == ["b", "c"]


def test_where_only_training_images_are_given_the_holdout_is_drawn() -> None:
    given = split(manifest(crowd, given_split="train")).table
    pd.testing.assert_frame_equal(given, split(manifest(crowd)).table)


def test_what_is_in_no_cluster_is_in_no_part() -> None:
    fit = {f"{label}/{number}": number for number, (label, _) in enumerate(crowd) if number % 10}
    assert set(split_images(manifest(crowd), fit, CONFIG).table["path"]) == set(fit)


def test_more_folds_than_images_are_refused() -> None:
    drawn = split(manifest(crowd + [("rare", f"rare{number}") for number in range(4)]))
    with pytest.raises(DataError, match=r"class 'rare' has . distinct training images, fewer than the 6 folds"):
        cut_folds(drawn, 6, 0)


def test_a_fold_without_validation_images_is_refused() -> None:
    train = manifest([(label, f"{label}{number}") for label in "ab" for number in range(20)], given_split="train")
    others = [manifest([("a", f"{name}1")], given_split=name) for name in ("val", "test")]
    with pytest.raises(DataError, match=r"fold . has no validation image"):
        cut_folds(split(joined(train, *others)), 5, 0)


def test_an_empty_part_is_refused() -> None:
    with pytest.raises(DataError, match=r"the .* part holds no image; add images, or change data\.split\."):
        split(manifest([("a", "1"), ("b", "2")]))
