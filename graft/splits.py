"""Which images train, which validate, which are held out, and how training images fall into folds.

An image's group is its perceptual hash: exact copies and the nearest of near duplicates share it.
Groups never straddle a boundary, and which side of it a group falls on depends on its own hash alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from graft.config import SplitConfig
from graft.errors import DataError
from graft.manifest import Manifest

PARTS = ("train", "validation", "holdout", "excluded")


@dataclass(frozen=True)
class Split:
    """One row an image: ``path, label, sha256, group, part``, sorted by path.

    ``part`` is ``train``, ``validation`` (chooses the best epoch), ``holdout`` (never trained on), or
    ``excluded`` (a copy of a held-out image in the given training folder).
    """

    table: pd.DataFrame

    @property
    def classes(self) -> list[str]:
        """The names of the classes, sorted: their order in every model."""
        return sorted(self.table["label"].unique())

    def rows(self, *parts: str) -> pd.DataFrame:
        """The rows of these parts."""
        return self.table[self.table["part"].isin(parts)].reset_index(drop=True)


@dataclass(frozen=True)
class Folds:
    """One row an image of the parts ``train`` and ``validation``: ``path, label, sha256, part, fold``.

    In fold k the rows with ``fold == k`` test; of the others, ``part`` says which train and which validate.
    """

    table: pd.DataFrame

    def rows(self, fold: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """Training, validation and test rows of a fold."""
        inside = self.table["fold"] == fold
        validates = self.table["part"] == "validation"
        parts = (~inside & ~validates, ~inside & validates, inside)
        train, validation, test = (self.table[mask].reset_index(drop=True) for mask in parts)
        return train, validation, test


def split_images(manifest: Manifest, quarantined: set[str], config: SplitConfig) -> Split:
    """Set images aside by content; raises ``DataError`` where a part would be empty."""
    table = manifest.table[~manifest.table["path"].isin(quarantined)].reset_index(drop=True)
    table = table.assign(group=table["phash"])
    given = set(table["given_split"]) & {"val", "test"}
    part = _given_parts(table, given) if given else _drawn_parts(table, config.holdout_fraction)
    drawn = table["group"].map(lambda group: position(group, "validation")) < config.validation_fraction
    if "validation" not in set(part):
        part = part.mask((part == "train") & drawn, "validation")
    split = Split(table[["path", "label", "sha256", "group"]].assign(part=part))
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
    cut = Folds(table.sort_values("path", ignore_index=True))
    for number in range(folds):
        _refuse_thin(cut, number)
    return cut


def position(group: str, purpose: str) -> float:
    """Where a group stands in 0..1 for a purpose: a hash, so no other image can move it."""
    digest = hashlib.sha256(f"{purpose}:{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _drawn_parts(table: pd.DataFrame, fraction: float) -> pd.Series:
    held_out = table["group"].map(lambda group: position(group, "holdout")) < fraction
    return pd.Series("train", index=table.index).mask(held_out, "holdout")


def _given_parts(table: pd.DataFrame, given: set[str]) -> pd.Series:
    """``val/`` is the holdout; where ``test/`` is given too, that is, and ``val/`` validates."""
    names = {
        "": "train",
        "train": "train",
        "val": "validation" if "test" in given else "holdout",
        "test": "holdout",
    }
    part = table["given_split"].map(names)
    for outer in ("holdout", "validation"):
        groups = set(table.loc[part == outer, "group"])
        leaks = table["group"].isin(groups) & (part != outer) & (part != "excluded") & (part != "holdout")
        part = part.mask(leaks, "excluded")
    return part


def _refuse_empty(split: Split) -> None:
    for part in ("train", "validation", "holdout"):
        if split.rows(part).empty:
            fraction = "validation" if part == "validation" else "holdout"
            raise DataError(
                f"the {part} part holds no image; add images, or raise data.split.{fraction}_fraction."
            )
    if missing := set(split.classes) - set(split.rows("train")["label"]):
        raise DataError(f"class {sorted(missing)[0]!r} has no image in the training part; add images of it.")


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
