"""Groups never straddle a boundary, and no image moves another."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.config import SplitConfig
from graft.errors import DataError
from graft.manifest import COLUMNS, Manifest
from graft.splits import cut_folds, split_images

CONFIG = SplitConfig()
Image = tuple[str, str]  # a label and a group


def manifest(images: list[Image], given_split: str = "") -> Manifest:
    rows = [
        dict.fromkeys(COLUMNS, 0)
        | {"path": f"{label}/{number}", "label": label, "sha256": f"{group}-{number}", "phash": group}
        | {"given_split": given_split, "error": "", "mode": "", "format": ""}
        for number, (label, group) in enumerate(images)
    ]
    return Manifest(pd.DataFrame(rows).astype(COLUMNS), Path())


# Large enough that every part holds an image of every class.
crowd = [(label, f"{label}{number:04d}") for label in ("a", "b", "c") for number in range(60)]
more = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.text("0123456789", min_size=1, max_size=3)), max_size=30
)


def parts(images: list[Image]) -> dict[str, str]:
    table = split_images(manifest(images), set(), CONFIG).table
    return dict(zip(table["group"], table["part"], strict=True))


@settings(deadline=None)
@given(more)
def test_new_images_move_no_other(images: list[Image]) -> None:
    before, after = parts(crowd), parts(crowd + images)
    assert {group: after[group] for group in before} == before


@settings(deadline=None)
@given(st.sets(st.integers(0, len(crowd) - 1), max_size=30))
def test_images_that_go_move_no_other(gone: set[int]) -> None:
    before = parts(crowd)
    after = parts([image for number, image in enumerate(crowd) if number not in gone])
    assert after.items() <= before.items()


@settings(deadline=None)
@given(more, st.integers(2, 6), st.integers(0, 99))
def test_groups_never_straddle_parts_or_folds(images: list[Image], folds: int, seed: int) -> None:
    split = split_images(manifest(crowd + images), set(), CONFIG)
    assert split.table.groupby("group")["part"].nunique().max() == 1
    cut = cut_folds(split, folds, seed).table.merge(split.table[["path", "group"]], on="path")
    assert cut.groupby("group")["fold"].nunique().max() == 1
    assert set(cut["path"]) == set(split.rows("train", "validation")["path"])


@settings(deadline=None)
@given(st.integers(2, 8), st.integers(0, 99))
def test_folds_are_balanced_where_groups_are_single(folds: int, seed: int) -> None:
    table = cut_folds(split_images(manifest(crowd), set(), CONFIG), folds, seed).table
    counts = table.groupby(["label", "fold"]).size().unstack()
    assert (counts.max(axis=1) - counts.min(axis=1)).max() <= 1


@settings(deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_files_changes_nothing(random: object) -> None:
    table = manifest(crowd).table
    shuffled = table.sample(frac=1, random_state=random.randrange(2**31))  # type: ignore[attr-defined]
    first, second = (
        cut_folds(split_images(Manifest(one, Path()), set(), CONFIG), 5, 0).table for one in (table, shuffled)
    )
    pd.testing.assert_frame_equal(first, second)


def test_a_fold_trains_validates_and_tests_on_different_images() -> None:
    folds = cut_folds(split_images(manifest(crowd), set(), CONFIG), 5, 0)
    for fold in range(5):
        train, validation, test = (set(rows["path"]) for rows in folds.rows(fold))
        assert not train & validation
        assert not (train | validation) & test
        assert train | validation | test == set(folds.table["path"])


def test_a_given_val_is_the_holdout_and_its_copies_are_left_out_of_training() -> None:
    given_train = manifest(crowd, "train").table
    given_val = manifest([("a", "a0001"), ("b", "new"), ("c", "newer")], "val").table.assign(
        path=["val/1", "val/2", "val/3"]
    )
    table = pd.concat([given_train, given_val], ignore_index=True)
    split = split_images(Manifest(table, Path()), set(), CONFIG)
    assert set(split.rows("holdout")["path"]) == {"val/1", "val/2", "val/3"}
    assert split.rows("excluded")["group"].tolist() == ["a0001"]


def test_a_given_test_is_the_holdout_and_val_validates() -> None:
    tables = [manifest(crowd, "train").table]
    for name in ("val", "test"):
        tables.append(manifest([("a", f"{name}1")], name).table.assign(path=f"{name}/1"))
    split = split_images(Manifest(pd.concat(tables, ignore_index=True), Path()), set(), CONFIG)
    assert split.rows("holdout")["path"].tolist() == ["test/1"]
    assert split.rows("validation")["path"].tolist() == ["val/1"]


def test_where_only_training_images_are_given_the_holdout_is_drawn() -> None:
    given = split_images(manifest(crowd, "train"), set(), CONFIG).table
    pd.testing.assert_frame_equal(given, split_images(manifest(crowd), set(), CONFIG).table)


def test_what_is_quarantined_is_in_no_part() -> None:
    split = split_images(manifest(crowd), {"a/0", "b/60"}, CONFIG)
    assert not {"a/0", "b/60"} & set(split.table["path"])


def test_more_folds_than_images_are_refused() -> None:
    split = split_images(manifest(crowd + [("rare", f"rare{number}") for number in range(4)]), set(), CONFIG)
    with pytest.raises(DataError, match=r"class 'rare' has . distinct training images, fewer than the 6 folds"):
        cut_folds(split, 6, 0)


def test_a_fold_without_validation_images_is_refused() -> None:
    train = manifest([(label, f"{label}{number}") for label in "ab" for number in range(20)], "train").table
    others = [manifest([("a", f"{name}1")], name).table.assign(path=f"{name}/1") for name in ("val", "test")]
    split = split_images(Manifest(pd.concat([train, *others], ignore_index=True), Path()), set(), CONFIG)
    with pytest.raises(DataError, match=r"fold . has no validation image"):
        cut_folds(split, 5, 0)


def test_an_empty_part_is_refused() -> None:
    with pytest.raises(DataError, match="part holds no image"):
        split_images(manifest([("a", "1"), ("b", "2")]), set(), CONFIG)
