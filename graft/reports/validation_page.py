"""The validation report as one self-contained HTML page."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import pandas as pd

from graft.data.validation_report import (
    CLUSTER_IMAGES,
    SHEET_CLUSTERS,
    SHEET_IMAGES,
    CheckResult,
    ValidationReport,
)
from graft.errors import printable
from graft.reports.figures import as_png, class_histogram, image_sizes
from graft.reports.pages import LISTED, embedded, render

CLUSTERED = frozenset(
    {"exact duplicates", "near duplicates", "near duplicates with another label", "in two given splits"}
)


@dataclass(frozen=True)
class Tile:
    """One image on a contact sheet; ``image`` is a data URL, or empty if there is no thumbnail."""

    image: str
    path: str
    note: str
    marked: bool = False


@dataclass(frozen=True)
class Sheet:
    """A contact sheet of images with something in common; ``more`` counts those that are not shown."""

    title: str
    text: str
    tiles: list[Tile]
    more: int


def validation_page(report: ValidationReport) -> str:
    """Verdict, figures, contact sheets of failures and of near duplicates, and every check."""
    warnings = report.failed("warning")
    left_out = report.quarantine
    duplicates = report.duplicates()
    cluster_count = duplicates["cluster"].nunique()
    numbers = [
        (len(report.table), "images"),
        (len(report.images_per_class), "classes"),
        (len(left_out), "left out"),
        (cluster_count, "clusters of near duplicates"),
        (len(warnings), "warnings"),
    ]
    images_per_class = {printable(label): count for label, count in report.images_per_class.items()}
    figures = [class_histogram(images_per_class), image_sizes(report.table)]
    return render(
        "validation.html.jinja",
        title="Image validation",
        good=not report.blocking_errors,
        verdict="Not ready for training" if report.blocking_errors else "Ready for training",
        numbers=[(f"{count:,}", caption) for count, caption in numbers],
        critical=report.blocking_errors,
        reading=report.reading,
        # With blocking errors, these contain the remarks.
        warnings=[*([] if report.blocking_errors else report.remarks), *(result.message for result in warnings)],
        figures=[embedded(as_png(figure, dpi=160), "image/png") for figure in figures],
        left_out=[
            _left_out_sheet(report, result, left_out)
            for result in report.check_results
            if (left_out["reason"] == result.name).any()
        ],
        warned=[_warning_sheet(report, result) for result in warnings if _has_sheet(report, result)],
        clusters=[
            _cluster_sheet(report, cluster)
            for _, cluster in islice(duplicates.groupby("cluster", sort=False), SHEET_CLUSTERS)
        ],
        more_clusters=max(0, cluster_count - SHEET_CLUSTERS),
        check_results=report.check_results,
        skipped=report.skipped.to_dict("records"),
        listed=left_out.head(LISTED).to_dict("records"),
        unlisted=max(0, len(left_out) - LISTED),
    )


def _has_sheet(report: ValidationReport, result: CheckResult) -> bool:
    """Whether a warning has a contact sheet: not for duplicates, which have their own, nor for checks of classes."""
    return result.name not in CLUSTERED and any(path in report.thumbnails for path in result.failing)


def _left_out_sheet(report: ValidationReport, result: CheckResult, left_out: pd.DataFrame) -> Sheet:
    images = left_out[left_out["reason"] == result.name]
    first = images.head(SHEET_IMAGES)
    tiles = [_tile(report, path, detail) for path, detail in zip(first["path"], first["detail"], strict=True)]
    relax = f" {result.full_config_key} relaxes this." if result.config_key else ""
    text = f"{result.capitalized_requirement}: {result.hint}.{relax}"
    return Sheet(f"{len(images):,} {result.name}", text, tiles, len(images) - len(tiles))


def _warning_sheet(report: ValidationReport, result: CheckResult) -> Sheet:
    tiles = [_tile(report, path, "") for path in result.failing[:SHEET_IMAGES]]
    title = f"{len(result.failing):,} {result.name}"
    return Sheet(title, result.message, tiles, len(result.failing) - len(tiles))


def _cluster_sheet(report: ValidationReport, cluster: pd.DataFrame) -> Sheet:
    first, *others = cluster.head(CLUSTER_IMAGES).to_dict("records")
    tiles = [_tile(report, first["path"], f"{first['label']}, {first['width_px']} x {first['height_px']} px")]
    for image in others:
        marked = image["label"] != first["label"]
        identical = image["sha256"] == first["sha256"]
        size = "identical file" if identical else f"{image['width_px']} x {image['height_px']} px"
        tiles.append(_tile(report, image["path"], f"{image['label']}, {size}", marked=marked))
    labels, splits = cluster["label"].nunique(), cluster["given_split"].replace("", "train").nunique()
    notes = [f"{labels} labels"] if labels > 1 else []
    notes += [f"in {splits} given splits"] if splits > 1 else []
    return Sheet(f"{len(cluster)} images", ", ".join(notes), tiles, len(cluster) - len(tiles))


def _tile(report: ValidationReport, path: str, note: str, *, marked: bool = False) -> Tile:
    jpeg = report.thumbnails.get(path)
    return Tile(embedded(jpeg, "image/jpeg") if jpeg else "", path, note, marked)
