"""What a validation found: the outcome of each check, what is left out and why, and whether the rest is fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from graft.errors import DataError

SHEET_IMAGES = 18
SHEET_CLUSTERS = 12
CLUSTER_IMAGES = 4


@dataclass(frozen=True)
class Outcome:
    """What became of one check; ``failing`` names the images or classes, where it is about single ones."""

    name: str
    asks: str
    severity: str
    key: str
    advice: str
    passed: bool
    found: str
    failing: list[str]

    @property
    def full_key(self) -> str:
        """The key as it stands below ``parameters``."""
        return self.key if "." in self.key else f"data.validation.{self.key}"

    @property
    def demand(self) -> str:
        """What is asked, as a sentence begins."""
        return f"{self.asks[0].upper()}{self.asks[1:]}"

    @property
    def sentence(self) -> str:
        """What is asked, what was found, what to do, which key relaxes it."""
        relax = f", or relax {self.full_key}" if self.key else ""
        return f"{self.demand}, but {self.found}: {self.advice}{relax}."


@dataclass(frozen=True)
class Quarantine:
    """The images that are left out: ``path, reason, detail``."""

    table: pd.DataFrame


@dataclass(frozen=True)
class ValidationReport:
    """All outcomes, the sentences for which the images are not fit to train on, and one row an image.

    Its columns are ``path, label, given_split, width_px, height_px, sha256, phash, reason, detail, cluster``.

    ``reason`` says why an image is left out, and is empty where it is not; ``cluster`` numbers near duplicates,
    and is -1 where an image is left out. ``ignored`` is the manifest's; ``thumbnails`` holds a JPEG by path of
    the images that a report shows, where it can be made; ``raw`` is what the library said of each suite.
    """

    outcomes: list[Outcome]
    refusals: list[str]
    table: pd.DataFrame
    images_per_class: dict[str, int]
    ignored: pd.DataFrame
    thumbnails: dict[str, bytes]
    raw: list[dict[str, Any]]

    @property
    def quarantine(self) -> pd.DataFrame:
        """The images that are left out: ``path, reason, detail``."""
        left_out = self.table["reason"] != ""
        return self.table.loc[left_out, ["path", "reason", "detail"]].reset_index(drop=True)

    @property
    def clusters(self) -> dict[str, int]:
        """The cluster of near duplicates of each image that is not left out, by path."""
        fit = self.table[self.table["reason"] == ""]
        return dict(zip(fit["path"], fit["cluster"], strict=True))

    def duplicates(self) -> pd.DataFrame:
        """The rows of clusters of more than one image; those of several labels or given splits first."""
        fit = self.table[self.table["reason"] == ""]
        cluster = fit.groupby("cluster")
        split = fit["given_split"].replace("", "train").groupby(fit["cluster"])
        mixed = np.maximum(cluster["label"].transform("nunique"), split.transform("nunique"))
        fit = fit.assign(size=cluster["path"].transform("size"), mixed=mixed)
        order = fit.sort_values(["mixed", "size", "cluster", "path"], ascending=[False, False, True, True])
        return order[order["size"] > 1].drop(columns=["size", "mixed"])

    def shown_paths(self) -> list[str]:
        """The images of which a report shows a picture: the first that fail each check, the first duplicates.

        None that did not decode: whatever opens it again may hang.
        """
        failing = [path for outcome in self.outcomes for path in outcome.failing[:SHEET_IMAGES]]
        left_out = self.quarantine.groupby("reason").head(SHEET_IMAGES)["path"]
        several = self.duplicates().groupby("cluster", sort=False).head(CLUSTER_IMAGES)["path"]
        images = set(self.table.loc[self.table["phash"] != "", "path"])
        wanted = dict.fromkeys([*failing, *left_out, *several[: SHEET_CLUSTERS * CLUSTER_IMAGES]])
        return [path for path in wanted if path in images]

    def failed(self, severity: str) -> list[Outcome]:
        """The checks of a severity that did not pass."""
        return [outcome for outcome in self.outcomes if outcome.severity == severity and not outcome.passed]


def require_fit(report: ValidationReport) -> None:
    """Raise ``DataError`` with one sentence for each reason not to train on these images."""
    if report.refusals:
        raise DataError(" ".join(report.refusals))
