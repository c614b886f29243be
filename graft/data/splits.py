"""Splitting images into training and holdout, and training images into folds.

An image's group is its near duplicates and all images that share the table's ``group`` with one of them. A group is
never split across parts or folds. Whether an image is held out depends only on its own perceptual hash (or the name of
its given group), so adding or removing other images cannot change it; if that splits a group, its training images are
excluded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from graft.config.parameters import SplitConfig
from graft.data.duplicates import components
from graft.data.manifest import Manifest
from graft.data.open_storage import local_folder
from graft.errors import DataError, printable

PARTS = ("train", "holdout", "excluded")
MAX_EXCLUDED_FRACTION = 0.1  # of the training images, before a person must decide


@dataclass(frozen=True)
class Split:
    """One row per image: ``path, label, sha256, group, part``, sorted by path.

    ``part`` is ``train``, ``holdout`` (never trained on, nor used for any choice), or ``excluded`` (not used, because
    others of its group are held out). ``root`` is the manifest's.
    """

    table: pd.DataFrame
    root: str

    def folder(self) -> Path:
        """The local folder that holds every image; fetches what is missing."""
        return local_folder(self.root, self.table["path"])

    @property
    def classes(self) -> list[str]:
        """The class names, sorted: their order in every model."""
        return sorted(self.table["label"].unique())

    @property
    def classes_without_holdout(self) -> list[str]:
        """The classes without a held-out image."""
        return sorted(set(self.classes) - set(self.records("holdout")["label"]))

    def records(self, *parts: str) -> pd.DataFrame:
        """The images of these parts."""
        return self.table[self.table["part"].isin(parts)].reset_index(drop=True)


@dataclass(frozen=True)
class Folds:
    """One row per image of the part ``train``: ``path, label, sha256, fold``.

    The images with ``fold == k`` are the test images of fold k; the others train it. ``root`` is the manifest's.
    """

    table: pd.DataFrame
    root: str

    @property
    def classes(self) -> list[str]:
        """The class names, sorted."""
        return sorted(self.table["label"].unique())

    def folder(self) -> Path:
        """The local folder that holds every image; fetches what is missing."""
        return local_folder(self.root, self.table["path"])

    def records(self, fold: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Training and test images of a fold."""
        is_test = self.table["fold"] == fold
        return self.table[~is_test].reset_index(drop=True), self.table[is_test].reset_index(drop=True)


def split_images(manifest: Manifest, clusters: Mapping[str, int], config: SplitConfig) -> Split:
    """Assign each image to a part, by its content.

    Raises ``DataError`` if a part or a training class is empty, or if ``on_leak`` is ``ask`` and more than a tenth of
    the training images would be excluded.

    ``clusters`` is the near-duplicate cluster of each valid image, by path; images without one are left out.
    """
    table = manifest.table[manifest.table["path"].isin(clusters)].reset_index(drop=True)
    key = table["given_group"].where(table["given_group"] != "", table["phash"])
    group = _groups(table, key, table["path"].map(clusters))
    if {"val", "test"} & set(table["given_split"]):
        part = _parts_from_splits(table["given_split"])
    else:
        part = _parts_by_hash(key, config.holdout_fraction)
    if config.on_leak != "keep":
        part = _exclude_leaks(part, group)
    split = Split(table[["path", "label", "sha256"]].assign(group=group, part=part), manifest.root)
    if config.on_leak == "ask":
        _check_excluded_fraction(split)
    _check_parts_not_empty(split)
    return split


def make_folds(split: Split, folds: int, seed: int) -> Folds:
    """Assign the training images to stratified folds of whole groups.

    Raises ``DataError`` if a class has fewer groups than folds, or a fold has no training image of a class.
    """
    table = split.records("train").sort_values(["sha256", "path"], ignore_index=True)
    groups = table.groupby("label")["group"].nunique()
    if (groups < folds).any():
        label = str(groups.idxmin())
        raise DataError(
            f"class {label!r} has {groups[label]} distinct training images, fewer than the {folds} folds; "
            f"add images or lower cross_validation.folds."
        )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    fold = pd.Series(0, index=table.index)
    for number, (_, test) in enumerate(splitter.split(table, table["label"], table["group"])):
        fold.iloc[test] = number
    table = table[["path", "label", "sha256"]].assign(fold=fold)
    result = Folds(table.sort_values("path", ignore_index=True), split.root)
    for number in range(folds):
        _check_fold(result, number)
    return result


def hash_fraction(group: str, purpose: str) -> float:
    """A group's name and a purpose hashed to a number in 0..1: independent of all other images."""
    digest = hashlib.sha256(f"{purpose}:{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _groups(table: pd.DataFrame, key: pd.Series, cluster: pd.Series) -> pd.Series:
    """Group images that share a given group or a cluster, directly or through others; returns the group's name.

    That is the smallest of its images' keys, unless another group has the same, as different images may have equal
    perceptual hashes; then its smallest content hash is added.
    """
    given = table["given_group"].where(table["given_group"] != "", table["path"])
    names, clusters = pd.factorize(given)[0], pd.factorize(cluster)[0]
    first = max(names, default=-1) + 1  # the number of the first cluster, after those of the given groups
    component = components(int(first + max(clusters, default=-1) + 1), names, clusters + first)[names]
    key, sha256 = (column.groupby(component).transform("min") for column in (key, table["sha256"]))
    shared = pd.Series(component, index=key.index).groupby(key).transform("nunique") > 1
    return key.mask(shared, key + ":" + sha256)


def _parts_by_hash(key: pd.Series, fraction: float) -> pd.Series:
    held_out = key.map(lambda name: hash_fraction(name, "holdout")) < fraction
    return pd.Series("train", index=key.index).mask(held_out, "holdout")


def _parts_from_splits(given_split: pd.Series) -> pd.Series:
    """``test`` is the holdout, or ``val`` if there is no ``test``; everything else is for training and its folds."""
    holdout = "test" if "test" in set(given_split) else "val"
    return pd.Series("train", index=given_split.index).mask(given_split == holdout, "holdout")


def _exclude_leaks(part: pd.Series, group: pd.Series) -> pd.Series:
    """Exclude from training the images whose group has a held-out image."""
    held_out = set(group[part == "holdout"])
    return part.mask(group.isin(held_out) & (part == "train"), "excluded")


def _check_excluded_fraction(split: Split) -> None:
    excluded, training = split.records("excluded"), split.records("excluded", "train")
    if len(excluded) > MAX_EXCLUDED_FRACTION * len(training):
        raise DataError(
            f"{describe_excluded(split)}: look at them in the validation report, which graft check writes, and set "
            f"data.split.on_leak to exclude, which trains without them, or to keep, which trains on them and makes the "
            f"holdout easier."
        )


def describe_excluded(split: Split) -> str:
    """How many training images are excluded, their share, and an example."""
    excluded, training = split.records("excluded"), split.records("excluded", "train")
    return (
        f"{len(excluded)} of {len(training)} training images ({100 * len(excluded) / len(training):.1f} %), such as "
        f"{printable(excluded['path'].iloc[0])}, are near duplicates of held-out images or of their group"
    )


def _check_parts_not_empty(split: Split) -> None:
    excluded = len(split.records("excluded"))
    hint = (
        f"; {excluded} images are left out because near duplicates of them are held out: set data.split.on_leak to keep"
        if excluded
        else ""
    )
    for part in ("train", "holdout"):
        if split.records(part).empty:
            raise DataError(f"the {part} part has no image; add images, or change data.split.holdout_fraction{hint}.")
    if missing := set(split.classes) - set(split.records("train")["label"]):
        raise DataError(f"class {sorted(missing)[0]!r} has no image in the training part; add images of it{hint}.")


def _check_fold(folds: Folds, number: int) -> None:
    train, _ = folds.records(number)
    if missing := set(folds.table["label"]) - set(train["label"]):
        raise DataError(
            f"fold {number} has no training image of class {sorted(missing)[0]!r}; add images of it, "
            f"or change cross_validation.folds."
        )
