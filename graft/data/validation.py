"""Are these images fit to train on? Great Expectations judges the manifest; nothing is changed."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from graft.config import BadImagesConfig, ValidationConfig
from graft.data.duplicates import clusters
from graft.data.expectations import (
    Check,
    class_checks,
    collection_checks,
    file_checks,
    label_checks,
    picture_checks,
)
from graft.data.images import EXTENSIONS
from graft.data.judge import Judge
from graft.data.manifest import Manifest
from graft.data.thumbnails import thumbnail
from graft.data.validation_report import Outcome, ValidationReport
from graft.errors import shown

EXAMPLES = 3
DETAILS = {
    "short_side_px": "{} px",
    "size_bytes": "{} bytes",
    "aspect_ratio": "{:.3g} to 1",
    "contrast": "contrast {:.3g}",
}
GREY_CHROMA = 2.0  # a grey picture saved in colour has less, the dullest of colour photographs more


def validate(
    manifest: Manifest, config: ValidationConfig, folds: int = 1, bad_images: BadImagesConfig | None = None
) -> ValidationReport:
    """Judge files, pictures and labels, each on what the last left, then what remains beside each other.

    ``folds`` is into how many folds the training images of each class must be cut.
    """
    trial = _Trial(manifest.table)
    trial.leave_out("files", lambda table: table, file_checks(config))
    trial.leave_out("pictures", _shaped, picture_checks(config))
    trial.leave_out("labels", _labelled, label_checks(config))
    left = trial.left.assign(cluster=clusters(trial.left["phash"], config.near_duplicate_bits))
    trial.judge("collection", _compared(left), collection_checks(config))
    classes = _classes(left, sorted({*manifest.classes, *manifest.empty_classes}))
    trial.judge("classes", classes, class_checks(config, folds, classes))

    rows = manifest.table[["path", "label", "given_split", "width_px", "height_px", "sha256", "phash"]]
    rows = rows.assign(reason=trial.reasons, detail=trial.details, cluster=left["cluster"])
    rows = rows.assign(cluster=rows["cluster"].fillna(-1).astype("int64"))
    counts = {str(label): int(count) for label, count in zip(classes["label"], classes["images"], strict=True)}
    refusals = _refusals(trial.outcomes, rows, bad_images or BadImagesConfig())
    report = ValidationReport(trial.outcomes, refusals, rows, counts, manifest.ignored, {}, trial.raw)
    folder = manifest.folder()
    pictures = {path: thumbnail(folder / path) for path in report.shown_paths()}
    report.thumbnails.update({path: picture for path, picture in pictures.items() if picture})
    return report


def _refusals(outcomes: list[Outcome], table: pd.DataFrame, config: BadImagesConfig) -> list[str]:
    left_out, images = table[table["reason"] != ""], len(table)
    rows = left_out.head(EXAMPLES)
    examples = ", ".join(
        f"{shown(path)}: {reason}" for path, reason in zip(rows["path"], rows["reason"], strict=True)
    )
    keys = [one.full_key for one in outcomes if one.severity == "quarantine" and not one.passed and one.key]
    found = f"{len(left_out)} of {images} are ({examples}): replace or remove them, or"
    reasons = []
    if config.on_bad_images == "fail" and len(left_out):
        reasons = [f"No image may be bad, but {found} set data.on_bad_images to quarantine."]
    elif len(left_out) > config.max_quarantined_fraction * images:
        most, relax = 100 * config.max_quarantined_fraction, ", ".join([*keys, "data.max_quarantined_fraction"])
        reasons = [f"At most {most:g} % of the images may be bad, but {found} relax one of {relax}."]
    return reasons + [one.sentence for one in outcomes if one.severity == "critical" and not one.passed]


class _Trial:
    """One suite after the other, each on the images that are left."""

    def __init__(self, table: pd.DataFrame) -> None:
        self.left = table
        self.reasons = pd.Series("", index=table.index, dtype="str")
        self.details = pd.Series("", index=table.index, dtype="str")
        self.outcomes: list[Outcome] = []
        self.raw: list[dict[str, Any]] = []
        self._judge = Judge()

    def judge(self, suite: str, table: pd.DataFrame, checks: list[Check]) -> list[Outcome]:
        """Judge a table."""
        outcomes, raw = self._judge(suite, table, checks)
        self.outcomes += outcomes
        self.raw.append(raw)
        return outcomes

    def leave_out(self, suite: str, derive: Callable[[pd.DataFrame], pd.DataFrame], checks: list[Check]) -> None:
        """Judge the images that are left, with derived columns, and leave out those that fail."""
        table = derive(self.left)
        for outcome, check in zip(self.judge(suite, table, checks), checks, strict=True):
            if outcome.severity == "quarantine":
                failing = table[table["path"].isin(outcome.failing) & (self.reasons[table.index] == "")]
                self.reasons[failing.index] = outcome.name
                self.details[failing.index] = np.array(_details(failing, check), dtype=object)
        self.left = self.left[self.reasons[self.left.index] == ""]


def _shaped(table: pd.DataFrame) -> pd.DataFrame:
    sides = table[["width_px", "height_px"]]
    short = sides.min(axis=1)
    return table.assign(short_side_px=short, aspect_ratio=sides.max(axis=1) / short.clip(lower=1))


def _labelled(table: pd.DataFrame) -> pd.DataFrame:
    labels = table.groupby("sha256")["label"]
    return table.assign(
        labels_of_picture=labels.transform("nunique"),
        labels_found=table["sha256"].map(labels.agg(lambda found: ", ".join(sorted(set(found))))),
    )


def _compared(table: pd.DataFrame) -> pd.DataFrame:
    """Each image beside the others: how far it is from the usual, and what else shows the same."""
    area = table["width_px"] * table["height_px"].astype("float64")
    factor = area / area.median()
    grey = table["chroma"] < GREY_CHROMA
    cluster = table.groupby("cluster")
    split = table["given_split"].replace("", "train")
    return table.assign(
        size_factor=np.maximum(factor, 1 / factor.clip(lower=1e-12)),
        named_format=table["path"].map(_named_format).where(lambda named: named != "", table["format"]),
        odd_colour=(grey != (grey.mean() > 0.5)).astype("int64"),
        pictures_of_cluster=cluster["sha256"].transform("nunique"),
        labels_of_cluster=cluster["label"].transform("nunique"),
        splits_of_cluster=split.groupby(table["cluster"]).transform("nunique"),
    )


def _classes(table: pd.DataFrame, labels: list[str]) -> pd.DataFrame:
    """One row a class, those without an image included."""
    trains = table[table["given_split"].isin(["", "train"])]
    grey = (table["chroma"] < GREY_CHROMA).astype("float64").groupby(table["label"]).mean()
    columns = {
        "images": table["label"].value_counts(),
        "distinct_to_train": trains.groupby("label")["cluster"].nunique(),
        "grey_above_least": grey.sub(grey.min()),
    }
    frame = pd.DataFrame(columns, index=pd.Index(labels, name="label")).fillna(0).reset_index()
    plain = frame["label"].map(lambda label: unicodedata.normalize("NFKC", label).casefold().strip())
    return frame.assign(plain_name=plain)


def _named_format(path: str) -> str:
    """The format that a file's extension names; empty where it names none."""
    return EXTENSIONS.get(PurePosixPath(path).suffix.lower(), "")


def _details(failing: pd.DataFrame, check: Check) -> list[str]:
    """What was found in each failing row, in the column that the check looks at."""
    column = str(check.expectation.column)
    if column == "labels_of_picture":
        return [f"found as {labels}" for labels in failing["labels_found"]]
    return [DETAILS.get(column, "{}").format(value) for value in failing[column]]
