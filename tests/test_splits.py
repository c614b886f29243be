"""Groups are never split across parts or folds, and no image changes whether another is held out."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.config.parameters import SplitConfig
from graft.data.manifest import COLUMNS, Manifest
from graft.data.splits import Split, describe_excluded, make_folds, split_images
from graft.errors import DataError

CONFIG = SplitConfig(on_leak="exclude")
Image = tuple[str, str]  # a label and a perceptual hash


def make_manifest(images: list[Image], **columns: str) -> Manifest:
    records = [
        {
            **{name: "" if dtype == "str" else 0 for name, dtype in COLUMNS.items()},
            **{"path": f"{label}/{number}", "label": label, "sha256": f"{phash}-{number}", "phash": phash},
            **columns,
        }
        for number, (label, phash) in enumerate(images)
    ]
    return Manifest(pd.DataFrame(records).astype(COLUMNS), "")


def split(manifest: Manifest, near: Mapping[str, int] | None = None, config: SplitConfig = CONFIG) -> Split:
    """Split with clusters of equal hashes, and of the hashes to which ``near`` gives the same number."""
    hashes = manifest.table["phash"]
    names = hashes.map(lambda phash: str(near[phash]) if near and phash in near else phash)
    clusters = pd.factorize(names)[0]
    return split_images(manifest, dict(zip(manifest.table["path"], clusters, strict=True)), config)


def concatenate(*manifests: Manifest) -> Manifest:
    tables = [
        manifest.table.assign(path=manifest.table["path"] + f"#{number}") for number, manifest in enumerate(manifests)
    ]
    return Manifest(pd.concat(tables, ignore_index=True), "")


# Large enough that every part has an image of every class.
base_images = [(label, f"{label}{number:04d}") for label in ("a", "b", "c") for number in range(60)]
hashes = [phash for _, phash in base_images]
new_images = st.lists(st.tuples(st.sampled_from("abc"), st.text("0123456789", min_size=1, max_size=3)), max_size=30)
# Images, existing or new, that become near duplicates of each other.
near_hashes = st.dictionaries(
    st.one_of(st.sampled_from(hashes), st.text("0123456789", min_size=1, max_size=3)),
    st.integers(0, 9),
    max_size=20,
)


def parts(images: list[Image], near: Mapping[str, int] | None = None) -> dict[str, str]:
    manifest = make_manifest(images)
    table = split(manifest, near).table.merge(manifest.table[["path", "phash"]], on="path")
    return dict(zip(table["phash"], table["part"], strict=True))


def held_out(images: list[Image], near: Mapping[str, int] | None = None) -> dict[str, bool]:
    return {phash: part == "holdout" for phash, part in parts(images, near).items()}


@settings(deadline=None, max_examples=50)
@given(new_images)
def test_split_images_is_stable_when_images_are_added(images: list[Image]) -> None:
    before, after = parts(base_images), parts(base_images + images)
    assert {phash: after[phash] for phash in before} == before


@settings(deadline=None, max_examples=50)
@given(st.sets(st.integers(0, len(base_images) - 1), max_size=30))
def test_split_images_is_stable_when_images_are_removed(removed: set[int]) -> None:
    after = parts([image for number, image in enumerate(base_images) if number not in removed])
    assert after.items() <= parts(base_images).items()


@settings(deadline=None, max_examples=50)
@given(new_images, near_hashes)
def test_holdout_is_stable_when_near_duplicates_are_added(images: list[Image], near: dict[str, int]) -> None:
    before, after = held_out(base_images), held_out(base_images + images, near)
    assert {phash: after[phash] for phash in before} == before


@settings(deadline=None, max_examples=50)
@given(st.permutations(range(len(base_images))))
def test_split_images_is_independent_of_file_names(order: list[int]) -> None:
    assert parts([base_images[number] for number in order]) == parts(base_images)


@settings(deadline=None, max_examples=50)
@given(new_images, near_hashes, st.integers(2, 6), st.integers(0, 99))
def test_groups_are_never_split_across_parts_or_folds(
    images: list[Image], near: dict[str, int], folds: int, seed: int
) -> None:
    result = split(make_manifest(base_images + images), near)
    used = result.table[result.table["part"] != "excluded"]
    assert used.groupby("group")["part"].nunique().max() == 1
    fold_table = make_folds(result, folds, seed).table.merge(result.table[["path", "group"]], on="path")
    assert fold_table.groupby("group")["fold"].nunique().max() == 1
    assert set(fold_table["path"]) == set(result.records("train")["path"])


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 8), st.integers(0, 99))
def test_folds_of_single_image_groups_are_balanced(folds: int, seed: int) -> None:
    table = make_folds(split(make_manifest(base_images)), folds, seed).table
    counts = table.groupby(["label", "fold"]).size().unstack()
    assert (counts.max(axis=1) - counts.min(axis=1)).max() <= 1


@settings(deadline=None, max_examples=50)
@given(st.randoms(use_true_random=False))
def test_folds_are_independent_of_file_order(random: object) -> None:
    manifest = make_manifest(base_images)
    shuffled = manifest.table.sample(frac=1, random_state=random.randrange(2**31))  # type: ignore[attr-defined]
    first, second = (make_folds(split(ordered), 5, 0).table for ordered in (manifest, Manifest(shuffled, "")))
    pd.testing.assert_frame_equal(first, second)


def test_fold_trains_on_all_images_but_its_test_images() -> None:
    folds = make_folds(split(make_manifest(base_images)), 5, 0)
    for fold in range(5):
        train, test = (set(images["path"]) for images in folds.records(fold))
        assert not train & test
        assert train | test == set(folds.table["path"])


def test_near_duplicates_of_held_out_images_are_excluded_unless_on_leak_is_keep() -> None:
    baseline = parts(base_images)
    inside = next(phash for phash in hashes if baseline[phash] == "holdout")
    outside = next(phash for phash in hashes if baseline[phash] == "train")
    near = {inside: 1, outside: 1}
    assert parts(base_images, near) == baseline | {outside: "excluded"}
    with_leaks = split(make_manifest(base_images), near, SplitConfig(on_leak="keep"))
    assert with_leaks.records("excluded").empty


def near_duplicates_of_a_held_out_image(count: int) -> tuple[Manifest, dict[str, int]]:
    """100 training and 20 held-out images; ``count`` training images are near duplicates of a held-out one."""
    train = make_manifest([("ab"[number % 2], f"{number:03d}") for number in range(100)], given_split="train")
    held_out = make_manifest([("ab"[number % 2], f"v{number:02d}") for number in range(20)], given_split="val")
    return concatenate(train, held_out), {"v00": 1} | {f"{number:03d}": 1 for number in range(count)}


def test_a_tenth_of_near_duplicates_is_excluded_without_asking() -> None:
    manifest, near = near_duplicates_of_a_held_out_image(10)
    result = split(manifest, near, SplitConfig())
    assert len(result.records("excluded")) == 10
    assert describe_excluded(result) == (
        "10 of 100 training images (10.0 %), such as a/0#0, are near duplicates of held-out images or of their group"
    )


def test_more_than_a_tenth_of_near_duplicates_needs_a_decision() -> None:
    manifest, near = near_duplicates_of_a_held_out_image(11)
    with pytest.raises(DataError) as error:
        split(manifest, near, SplitConfig())
    assert str(error.value) == (
        "11 of 100 training images (11.0 %), such as a/0#0, are near duplicates of held-out images or of their group: "
        "look at them in the validation report, which graft check writes, and set data.split.on_leak to exclude, which "
        "trains without them, or to keep, which trains on them and makes the holdout easier."
    )
    assert len(split(manifest, near, SplitConfig(on_leak="exclude")).records("excluded")) == 11
    assert split(manifest, near, SplitConfig(on_leak="keep")).records("excluded").empty


def test_images_with_equal_hashes_in_different_clusters_are_different_groups() -> None:
    manifest = concatenate(make_manifest(base_images), make_manifest([("a", "a0001"), ("b", "new"), ("b", "a0001")]))
    clusters = dict(zip(manifest.table["path"], range(len(manifest.table)), strict=True))
    table = split_images(manifest, clusters, CONFIG).table
    assert table["group"].nunique() == len(table)
    alike = table["path"].isin(manifest.table.loc[manifest.table["phash"] == "a0001", "path"])
    assert alike.sum() == 3
    assert table.loc[alike, "part"].nunique() == 1  # still held out together, since only the hash decides that


def test_given_group_stays_in_one_part_whatever_its_hashes() -> None:
    patients = [make_manifest([("ab"[n % 2], f"{n}-{k}") for k in range(5)], given_group=f"p{n}") for n in range(60)]
    result = split(concatenate(*patients))
    assert result.table.groupby("group").size().eq(5).all()
    assert result.table.groupby("group")["part"].nunique().max() == 1
    assert result.records("excluded").empty


def test_given_val_is_the_holdout_and_its_copies_are_excluded_from_training() -> None:
    given_val = make_manifest([("a", "a0001"), ("b", "new"), ("c", "newer")], given_split="val")
    result = split(concatenate(make_manifest(base_images, given_split="train"), given_val))
    assert set(result.records("holdout")["path"]) == {"a/0#1", "b/1#1", "c/2#1"}
    assert result.records("excluded")["group"].tolist() == ["a0001"]


def test_given_test_is_the_holdout_and_given_val_is_trained_on() -> None:
    val_and_test = [make_manifest([("a", f"{name}1")], given_split=name) for name in ("val", "test")]
    result = split(concatenate(make_manifest(base_images, given_split="train"), *val_and_test))
    assert result.records("holdout")["path"].tolist() == ["a/0#2"]
    assert "a/0#1" in set(result.records("train")["path"])
    assert result.classes_without_holdout == ["b", "c"]


def test_given_train_alone_is_split_like_ungiven_images() -> None:
    table = split(make_manifest(base_images, given_split="train")).table
    pd.testing.assert_frame_equal(table, split(make_manifest(base_images)).table)


def test_images_without_cluster_are_in_no_part() -> None:
    valid = {f"{label}/{number}": number for number, (label, _) in enumerate(base_images) if number % 10}
    assert set(split_images(make_manifest(base_images), valid, CONFIG).table["path"]) == set(valid)


def test_make_folds_rejects_class_with_fewer_groups_than_folds() -> None:
    result = split(make_manifest(base_images + [("rare", f"rare{number}") for number in range(4)]))
    with pytest.raises(DataError, match=r"class 'rare' has . distinct training images, fewer than the 6 folds"):
        make_folds(result, 6, 0)


def test_split_images_rejects_empty_part() -> None:
    with pytest.raises(DataError, match=r"the .* part has no image; add images, or change data\.split\."):
        split(make_manifest([("a", "1"), ("b", "2")]))
