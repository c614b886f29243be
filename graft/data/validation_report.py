"""The result of a validation: the result of each check, the images left out, and why training must not start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from graft.errors import DataError

SHEET_IMAGES = 18
SHEET_CLUSTERS = 24
CLUSTER_IMAGES = 4


@dataclass(frozen=True)
class CheckResult:
    """The result of one check; ``failing`` names the images or classes that fail, if it is about single ones."""

    name: str
    requirement: str
    severity: str
    config_key: str
    hint: str
    passed: bool
    observed: str
    failing: list[str]

    @property
    def full_config_key(self) -> str:
        """The key below ``parameters``."""
        return self.config_key if "." in self.config_key else f"data.validation.{self.config_key}"

    @property
    def capitalized_requirement(self) -> str:
        """The requirement as the start of a sentence."""
        return f"{self.requirement[0].upper()}{self.requirement[1:]}"

    @property
    def message(self) -> str:
        """A sentence: the requirement, the observation, what to do, which key relaxes the check."""
        relax = f", or relax {self.full_config_key}" if self.config_key else ""
        return f"{self.capitalized_requirement}, but {self.observed}: {self.hint}{relax}."


@dataclass(frozen=True)
class Quarantine:
    """The images that are left out: ``path, reason, detail``."""

    table: pd.DataFrame


@dataclass(frozen=True)
class ValidationReport:
    """All check results, the reasons not to train on these images, and a table with one row per image.

    The columns of ``table`` are ``path, label, given_split, width_px, height_px, sha256, phash, reason, detail,
    cluster``. ``reason`` is the check for which an image is left out, or empty; ``cluster`` numbers near duplicates,
    and is -1 if the image is left out. ``skipped`` is the manifest's. ``thumbnails`` are JPEGs by path, of the images
    that a report shows. ``raw`` is the library's own result of each suite. ``reading`` and ``remarks`` are the
    manifest's.
    """

    check_results: list[CheckResult]
    blocking_errors: list[str]
    table: pd.DataFrame
    images_per_class: dict[str, int]
    skipped: pd.DataFrame
    thumbnails: dict[str, bytes]
    raw: list[dict[str, Any]]
    reading: str
    remarks: list[str]

    @property
    def quarantine(self) -> pd.DataFrame:
        """The images that are left out: ``path, reason, detail``."""
        left_out = self.table["reason"] != ""
        return self.table.loc[left_out, ["path", "reason", "detail"]].reset_index(drop=True)

    @property
    def clusters(self) -> dict[str, int]:
        """The near-duplicate cluster of each image that is not left out, by path."""
        valid = self.table[self.table["reason"] == ""]
        return dict(zip(valid["path"], valid["cluster"], strict=True))

    def duplicates(self) -> pd.DataFrame:
        """The images of clusters of more than one image; clusters of several labels or given splits first."""
        valid = self.table[self.table["reason"] == ""]
        cluster = valid.groupby("cluster")
        split = valid["given_split"].replace("", "train").groupby(valid["cluster"])
        mixed = np.maximum(cluster["label"].transform("nunique"), split.transform("nunique"))
        valid = valid.assign(size=cluster["path"].transform("size"), mixed=mixed)
        ordered = valid.sort_values(["mixed", "size", "cluster", "path"], ascending=[False, False, True, True])
        return ordered[ordered["size"] > 1].drop(columns=["size", "mixed"])

    def thumbnail_paths(self) -> list[str]:
        """The images that a report shows: the first that fail each check, and the first duplicates.

        Without images that did not decode: opening them again may hang.
        """
        failing = [path for result in self.check_results for path in result.failing[:SHEET_IMAGES]]
        left_out = self.quarantine.groupby("reason").head(SHEET_IMAGES)["path"]
        duplicates = self.duplicates().groupby("cluster", sort=False).head(CLUSTER_IMAGES)["path"]
        decoded = set(self.table.loc[self.table["phash"] != "", "path"])
        paths = dict.fromkeys([*failing, *left_out, *duplicates[: SHEET_CLUSTERS * CLUSTER_IMAGES]])
        return [path for path in paths if path in decoded]

    def failed(self, severity: str) -> list[CheckResult]:
        """The checks of a severity that did not pass."""
        return [result for result in self.check_results if result.severity == severity and not result.passed]


def check_blocking_errors(report: ValidationReport) -> None:
    """Raise ``DataError`` with one sentence for each reason not to train on these images."""
    if report.blocking_errors:
        raise DataError(" ".join(report.blocking_errors))
