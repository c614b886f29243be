"""Which images train, which validate, which are held out, and how training images fall into folds.

An image's group holds its near duplicates and whatever shares the table's ``group`` with one of them. Groups never
straddle a boundary. Which side of the holdout an image falls on depends on its own perceptual hash (or on the name
of its given group) alone, so that no other image can ever move it; where that would part a group, its training
images are left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from graft.config import SplitConfig
from graft.data.duplicates import components
from graft.data.manifest import Manifest
from graft.data.places import local_folder
from graft.errors import DataError

PARTS = ("train", "validation", "holdout", "excluded")


@dataclass(frozen=True)
class Split:
    """One row an image: ``path, label, sha256, group, part``, sorted by path.

    ``part`` is ``train``, ``validation`` (chooses the best epoch), ``holdout`` (never trained on), or
    ``excluded`` (of a group that is held out, though itself it is not). ``root`` is the manifest's.
    """

    table: pd.DataFrame
    root: str

    def folder(self) -> Path:
        """The folder on this machine that holds every image."""
        return local_folder(self.root, self.table["path"])

    @property
    def classes(self) -> list[str]:
        """The names of the classes, sorted: their order in every model."""
        return sorted(self.table["label"].unique())

    @property
    def unjudged(self) -> list[str]:
        """The classes of which no image is held out."""
        return sorted(set(self.classes) - set(self.rows("holdout")["label"]))

    def rows(self, *parts: str) -> pd.DataFrame:
        """The rows of these parts."""
        return self.table[self.table["part"].isin(parts)].reset_index(drop=True)


@dataclass(frozen=True)
class Folds:
    """One row an image of the parts ``train`` and ``validation``: ``path, label, sha256, part, fold``.

    In fold k the rows with ``fold == k`` test; of the others, ``part`` says which train and which validate.
    ``root`` is the manifest's.
    """

    table: pd.DataFrame
    root: str

    def folder(self) -> Path:
        """The folder on this machine that holds every image."""
        return local_folder(self.root, self.table["path"])

    def rows(self, fold: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """Training, validation and test rows of a fold."""
        inside = self.table["fold"] == fold
        validates = self.table["part"] == "validation"
        parts = (~inside & ~validates, ~inside & validates, inside)
        train, validation, test = (self.table[mask].reset_index(drop=True) for mask in parts)
        return train, validation, test


def split_images(manifest: Manifest, clusters: Mapping[str, int], config: SplitConfig) -> Split:
    """Set images aside by content; raises ``DataError`` where a part would be empty.

    ``clusters`` numbers the near duplicates of each image that is fit, by path; others are in no part.
    """
    table = manifest.table[manifest.table["path"].isin(clusters)].reset_index(drop=True)
    key = table["given_group"].where(table["given_group"] != "", table["phash"])
    group = _groups(key, table["path"].map(clusters))
    given = set(table["given_split"]) & {"val", "test"}
    part = _given_parts(table["given_split"], given) if given else _drawn_parts(key, config.holdout_fraction)
    if config.on_leak == "exclude":
        part = _without_leaks(part, group)
    if "validation" not in set(part):
        drawn = group.map(lambda name: position(name, "validation")) < config.validation_fraction
        part = part.mask((part == "train") & drawn, "validation")
    split = Split(table[["path", "label", "sha256"]].assign(group=group, part=part), manifest.root)
    _refuse_empty(split)
    return split


def cut_folds(split: Split, folds: int, seed: int) -> Folds:
    """Cut the images that are not held out into stratified folds of whole groups.

    Raises ``DataError`` where a class has fewer groups than folds.
    """
    table = split.rows("train", "validation").sort_values(["sha256", "path"], ignore_index=True)
    groups = table.groupby("label")["group"].nunique()
    if (groups < folds).any():
        label = str(groups.idxmin())
        raise DataError(
            f"class {label!r} has {groups[label]} distinct training images, fewer than the {folds} folds; "
            f"add images or lower cross_validation.folds."
        )
    cutter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    fold = pd.Series(0, index=table.index)
    for number, (_, test) in enumerate(cutter.split(table, table["label"], table["group"])):
        fold.iloc[test] = number
    table = table[["path", "label", "sha256", "part"]].assign(fold=fold)
    cut = Folds(table.sort_values("path", ignore_index=True), split.root)
    for number in range(folds):
        _refuse_thin(cut, number)
    return cut


def position(group: str, purpose: str) -> float:
    """Where a group stands in 0..1 for a purpose: a hash, so no other image can move it."""
    digest = hashlib.sha256(f"{purpose}:{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _groups(key: pd.Series, cluster: pd.Series) -> pd.Series:
    """Join what shares a key or a cluster; a group is named by the first of its keys."""
    keys, clusters = pd.factorize(key)[0], pd.factorize(cluster)[0]
    first = max(keys, default=-1) + 1  # the number of the first cluster, after those of the keys
    joined = components(int(first + max(clusters, default=-1) + 1), keys, clusters + first)
    return key.groupby(joined[keys]).transform("min")


def _drawn_parts(key: pd.Series, fraction: float) -> pd.Series:
    held_out = key.map(lambda name: position(name, "holdout")) < fraction
    return pd.Series("train", index=key.index).mask(held_out, "holdout")


def _given_parts(given_split: pd.Series, given: set[str]) -> pd.Series:
    """``val/`` is the holdout; where ``test/`` is given too, that is, and ``val/`` validates."""
    names = {
        "": "train",
        "train": "train",
        "val": "validation" if "test" in given else "holdout",
        "test": "holdout",
    }
    return given_split.map(names)


def _without_leaks(part: pd.Series, group: pd.Series) -> pd.Series:
    """Leave out of training what is grouped with a held-out or a given validation image."""
    for outer, inner in (("holdout", ["train", "validation"]), ("validation", ["train"])):
        groups = set(group[part == outer])
        part = part.mask(group.isin(groups) & part.isin(inner), "excluded")
    return part


def _refuse_empty(split: Split) -> None:
    excluded = len(split.rows("excluded"))
    hint = (
        f"; {excluded} images are left out since near duplicates of them are held out: lower "
        f"data.validation.near_duplicate_bits, or set data.split.on_leak to keep"
        if excluded
        else ""
    )
    for part in ("train", "validation", "holdout"):
        if split.rows(part).empty:
            fraction = "validation" if part == "validation" else "holdout"
            raise DataError(
                f"the {part} part holds no image; add images, or change data.split.{fraction}_fraction{hint}."
            )
    if missing := set(split.classes) - set(split.rows("train")["label"]):
        raise DataError(f"class {sorted(missing)[0]!r} has no image in the training part; add images of it{hint}.")


def _refuse_thin(folds: Folds, number: int) -> None:
    train, validation, _ = folds.rows(number)
    if missing := set(folds.table["label"]) - set(train["label"]):
        raise DataError(
            f"fold {number} has no training image of class {sorted(missing)[0]!r}; add images of it, "
            f"or change cross_validation.folds."
        )
    if validation.empty:
        raise DataError(
            f"fold {number} has no validation image; add images, or raise data.split.validation_fraction."
        )
