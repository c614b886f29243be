"""Validates a manifest with Great Expectations; changes no image."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from graft.config.image_sources import EXTENSIONS
from graft.config.parameters import BadImagesConfig, ValidationConfig
from graft.data.duplicates import cluster_duplicates
from graft.data.expectation_runner import ExpectationRunner
from graft.data.expectations import (
    Check,
    class_checks,
    collection_checks,
    file_checks,
    image_checks,
    label_checks,
)
from graft.data.manifest import Manifest
from graft.data.storage import MISSING
from graft.data.thumbnail_cache import ThumbnailCache
from graft.data.thumbnails import thumbnail_jpeg
from graft.data.validation_report import CheckResult, ValidationReport
from graft.errors import printable

EXAMPLES = 3
DETAILS = {
    "short_side_px": "{} px",
    "read_bytes": "{:.0f} bytes",
    "aspect_ratio": "{:.3g} to 1",
    "scaled_contrast": "contrast {:.3g}",
    "blank_range_percent": "uses {:.2g} % of its 16-bit range",
}
GREY_CHROMA = 2.0  # a grey image saved in colour has less, even a dull colour photograph has more


def validate_images(
    manifest: Manifest, config: ValidationConfig, folds: int = 1, bad_images: BadImagesConfig | None = None
) -> ValidationReport:
    """Check files, images and labels one after the other, each without earlier failures; then the rest as a whole.

    ``folds`` is the number of folds: each class needs as many distinct training images.
    """
    run = _ValidationRun(manifest.table)
    run.quarantine_failures("files", _with_read_files, file_checks(config))
    run.quarantine_failures("images", lambda table: _with_geometry(table, config.min_contrast), image_checks(config))
    run.quarantine_failures("labels", _with_label_counts, label_checks(config))
    valid = run.valid.assign(cluster=_clusters(manifest, run.valid, config.near_duplicate_bits))
    run.run_suite("collection", _with_comparisons(valid), collection_checks(config))
    classes = _class_table(valid, sorted({*manifest.classes, *manifest.empty_classes}))
    run.run_suite("classes", classes, class_checks(config, folds, classes))

    table = manifest.table[["path", "label", "given_split", "width_px", "height_px", "sha256", "phash"]]
    table = table.assign(reason=run.reasons, detail=run.details, cluster=valid["cluster"])
    table = table.assign(cluster=table["cluster"].fillna(-1).astype("int64"))
    counts = {str(label): int(count) for label, count in zip(classes["label"], classes["images"], strict=True)}
    blocking_errors = _blocking_errors(run.check_results, table, bad_images or BadImagesConfig())
    if blocking_errors:  # a mistake in how the images are laid out may be the cause
        blocking_errors += manifest.remarks
    report = ValidationReport(
        run.check_results, blocking_errors, table, counts, manifest.skipped, {}, run.raw,
        manifest.reading, manifest.remarks,
    )  # fmt: skip
    folder = manifest.folder()
    thumbnails = {path: thumbnail_jpeg(folder / path) for path in report.thumbnail_paths()}
    report.thumbnails.update({path: jpeg for path, jpeg in thumbnails.items() if jpeg})
    return report


def _clusters(manifest: Manifest, table: pd.DataFrame, max_bits: int) -> np.ndarray:
    """The cluster of near duplicates of each image."""
    pixels, positions = ThumbnailCache(manifest.root).load(manifest.folder(), table)
    return cluster_duplicates(pixels, positions, table["label"], max_bits)


def _blocking_errors(check_results: list[CheckResult], table: pd.DataFrame, config: BadImagesConfig) -> list[str]:
    quarantined = table[table["reason"] != ""]
    first = quarantined.head(EXAMPLES)
    examples = ", ".join(
        f"{printable(path)}: {reason}" for path, reason in zip(first["path"], first["reason"], strict=True)
    )
    observed = f"{len(quarantined)} of {len(table)} are ({examples}): replace or remove them, or"
    errors = []
    if config.on_bad_images == "fail" and len(quarantined):
        errors = [f"No image may be bad, but {observed} set data.on_bad_images to quarantine."]
    elif len(quarantined) > config.max_quarantined_fraction * len(table):
        keys = [
            result.full_config_key
            for result in check_results
            if result.severity == "quarantine" and not result.passed and result.config_key
        ]
        relax = ", ".join(dict.fromkeys([*keys, "data.max_quarantined_fraction"]))
        max_percent = 100 * config.max_quarantined_fraction
        errors = [f"At most {max_percent:g} % of the images may be bad, but {observed} relax one of {relax}."]
    failed = [result for result in check_results if not result.passed]
    causes = [result for result in failed if errors and result.severity == "quarantine"]
    critical = [result for result in failed if result.severity == "critical"]
    return errors + [result.message for result in [*causes, *critical]]


class _ValidationRun:
    """Runs suites one after the other; ``valid`` holds the images not yet quarantined."""

    def __init__(self, table: pd.DataFrame) -> None:
        self.valid = table
        self.reasons = pd.Series("", index=table.index, dtype="str")
        self.details = pd.Series("", index=table.index, dtype="str")
        self.check_results: list[CheckResult] = []
        self.raw: list[dict[str, Any]] = []
        self._runner = ExpectationRunner()

    def run_suite(self, suite: str, table: pd.DataFrame, checks: list[Check]) -> None:
        """Check a table."""
        check_results, raw = self._runner.run(suite, table, checks)
        self.check_results += check_results
        self.raw.append(raw)

    def quarantine_failures(
        self, suite: str, derive: Callable[[pd.DataFrame], pd.DataFrame], checks: list[Check]
    ) -> None:
        """Check the valid images, with the columns that ``derive`` adds, and quarantine those that fail."""
        table = derive(self.valid)
        first = len(self.check_results)
        self.run_suite(suite, table, checks)
        for index, check in enumerate(checks, first):
            result = self.check_results[index]
            if result.severity == "quarantine" and result.failing:
                failing = table[table["path"].isin(result.failing)]
                details = pd.Series(_details(failing, check), failing.index, dtype="str")
                self.check_results[index] = _with_examples(result, failing["path"], details)
                new = failing.index[self.reasons[failing.index] == ""]
                self.reasons[new] = result.name
                self.details[new] = details[new]
        self.valid = self.valid[self.reasons[self.valid.index] == ""]


def _with_examples(result: CheckResult, paths: pd.Series, details: pd.Series) -> CheckResult:
    """The result with what is wrong with the first failing images."""
    first = zip(paths[:EXAMPLES], details[:EXAMPLES], strict=True)
    examples = [f"{printable(path)}: {printable(detail)}" for path, detail in first]
    more = ["…"] if len(paths) > EXAMPLES else []
    counts = result.observed.partition(" (")[0]
    return replace(result, observed=f"{counts} ({', '.join([*examples, *more])})")


def _with_read_files(table: pd.DataFrame) -> pd.DataFrame:
    """Error and size of files that were read: one that is missing is neither damaged nor small."""
    missing = table["error"].str.startswith(MISSING)
    read_bytes = table["size_bytes"].where(table["sha256"] != "")
    return table.assign(decode_error=table["error"].mask(missing, ""), read_bytes=read_bytes)


def _with_geometry(table: pd.DataFrame, min_contrast: float) -> pd.DataFrame:
    """Side and aspect ratio; the used percentage of the range of 16-bit images that would otherwise count as blank."""
    sides = table[["width_px", "height_px"]]
    short = sides.min(axis=1)
    unscaled = (table["contrast"] < min_contrast) & table["used_range"].between(0, 1, inclusive="neither")
    return table.assign(
        scaled_contrast=table["contrast"].mask(unscaled),
        short_side_px=short,
        aspect_ratio=sides.max(axis=1) / short.clip(lower=1),
        blank_range_percent=(100 * table["used_range"]).where(unscaled, 100),
    )


def _with_label_counts(table: pd.DataFrame) -> pd.DataFrame:
    labels = table.groupby("sha256")["label"]
    return table.assign(
        label_count=labels.transform("nunique"),
        all_labels=table["sha256"].map(labels.agg(lambda group: ", ".join(sorted(set(group))))),
    )


def _with_comparisons(table: pd.DataFrame) -> pd.DataFrame:
    """Each image compared with the others: its size and colour with the majority, its cluster with other clusters."""
    area = table["width_px"] * table["height_px"].astype("float64")
    factor = area / area.median()
    grey = table["chroma"] < GREY_CHROMA
    cluster = table.groupby("cluster")
    split = table["given_split"].replace("", "train")
    return table.assign(
        size_factor=np.maximum(factor, 1 / factor.clip(lower=1e-12)),
        extension_format=table["path"].map(_extension_format).where(lambda name: name != "", table["format"]),
        colour_outlier=(grey != (grey.mean() > 0.5)).astype("int64"),
        cluster_image_count=cluster["sha256"].transform("nunique"),
        cluster_label_count=cluster["label"].transform("nunique"),
        cluster_split_count=split.groupby(table["cluster"]).transform("nunique"),
    )


def _class_table(table: pd.DataFrame, labels: list[str]) -> pd.DataFrame:
    """One row per class, including classes without an image."""
    trains = table[table["given_split"].isin(["", "train"])]
    grey = (table["chroma"] < GREY_CHROMA).astype("float64").groupby(table["label"]).mean()
    columns = {
        "images": table["label"].value_counts(),
        "distinct_training_images": trains.groupby("label")["cluster"].nunique(),
        "grey_gap": grey.sub(grey.min()),
    }
    classes = pd.DataFrame(columns, index=pd.Index(labels, name="label")).fillna(0).reset_index()
    normalized = classes["label"].map(lambda label: unicodedata.normalize("NFKC", label).casefold().strip())
    return classes.assign(normalized_name=normalized)


def _extension_format(path: str) -> str:
    """The format of a file's extension; empty if the extension is unknown."""
    return EXTENSIONS.get(PurePosixPath(path).suffix.lower(), "")


def _details(failing: pd.DataFrame, check: Check) -> list[str]:
    """The value of each failing row in the column that is checked."""
    column = str(check.expectation.column)
    if column == "label_count":
        return [f"labelled {labels}" for labels in failing["all_labels"]]
    return [DETAILS.get(column, "{}").format(value) for value in failing[column]]
