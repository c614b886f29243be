"""The report of a validation as one page that needs no network."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from itertools import islice

import pandas as pd

from graft.data.duplicates import distance
from graft.data.validation_report import CLUSTER_IMAGES, SHEET_CLUSTERS, SHEET_IMAGES, Outcome, ValidationReport
from graft.reports.figures import as_png, class_histogram, image_sizes
from graft.reports.pages import LISTED, embedded, render

CLUSTERED = frozenset(
    {"exact duplicates", "near duplicates", "near duplicates with another label", "in two given splits"}
)


@dataclass(frozen=True)
class Tile:
    """One image on a contact sheet."""

    picture: str
    path: str
    note: str
    marked: bool = False


@dataclass(frozen=True)
class Sheet:
    """Images that have something in common; ``more`` counts those that are not shown."""

    title: str
    text: str
    tiles: list[Tile]
    more: int


def validation_page(report: ValidationReport) -> str:
    """Verdict, figures, contact sheets of what is wrong, duplicates side by side, every check."""
    warnings = report.failed("warning")
    left_out = report.quarantine
    duplicates = report.duplicates()
    several = duplicates["cluster"].nunique()
    numbers = [
        (len(report.table), "images"),
        (len(report.images_per_class), "classes"),
        (len(left_out), "left out"),
        (several, "clusters of near duplicates"),
        (len(warnings), "warnings"),
    ]
    figures = [class_histogram(report.images_per_class), image_sizes(report.table)]
    return render(
        "validation.html.jinja",
        title="Validation of the images",
        good=not report.refusals,
        verdict="Not fit to train on" if report.refusals else "Fit to train on",
        numbers=[(f"{count:,}", what) for count, what in numbers],
        critical=report.refusals,
        warnings=[outcome.sentence for outcome in warnings],
        figures=[embedded(as_png(figure, dpi=160), "image/png") for figure in figures],
        left_out=[_left_out_sheet(report, outcome, left_out) for outcome in _reasons(report, left_out)],
        odd=[_odd_sheet(report, outcome) for outcome in warnings if _about_images(report, outcome)],
        clusters=[
            _cluster_sheet(report, rows)
            for _, rows in islice(duplicates.groupby("cluster", sort=False), SHEET_CLUSTERS)
        ],
        more_clusters=max(0, several - SHEET_CLUSTERS),
        outcomes=report.outcomes,
        ignored=report.ignored.to_dict("records"),
        listed=left_out.head(LISTED).to_dict("records"),
        unlisted=max(0, len(left_out) - LISTED),
    )


def _reasons(report: ValidationReport, left_out: pd.DataFrame) -> list[Outcome]:
    names = set(left_out["reason"])
    return [outcome for outcome in report.outcomes if outcome.name in names]


def _about_images(report: ValidationReport, outcome: Outcome) -> bool:
    """Duplicates have a place of their own, and some checks are about classes."""
    return outcome.name not in CLUSTERED and any(path in report.thumbnails for path in outcome.failing)


def _left_out_sheet(report: ValidationReport, outcome: Outcome, left_out: pd.DataFrame) -> Sheet:
    rows = left_out[left_out["reason"] == outcome.name]
    first = rows.head(SHEET_IMAGES)
    tiles = [_tile(report, path, detail) for path, detail in zip(first["path"], first["detail"], strict=True)]
    relax = f" {outcome.full_key} relaxes this." if outcome.key else ""
    text = f"{outcome.demand}: {outcome.advice}.{relax}"
    return Sheet(f"{len(rows):,} {outcome.name}", text, tiles, len(rows) - len(tiles))


def _odd_sheet(report: ValidationReport, outcome: Outcome) -> Sheet:
    tiles = [_tile(report, path, "") for path in outcome.failing[:SHEET_IMAGES]]
    title = f"{len(outcome.failing):,} {outcome.name}"
    return Sheet(title, outcome.sentence, tiles, len(outcome.failing) - len(tiles))


def _cluster_sheet(report: ValidationReport, cluster: pd.DataFrame) -> Sheet:
    first, *others = cluster.head(CLUSTER_IMAGES).to_dict("records")
    tiles = [_tile(report, first["path"], first["label"])]
    for row in others:
        marked = row["label"] != first["label"]
        tiles.append(_tile(report, row["path"], f"{row['label']}, {_apart(row, first)}", marked=marked))
    labels, splits = cluster["label"].nunique(), cluster["given_split"].replace("", "train").nunique()
    said = [f"{labels} labels"] if labels > 1 else []
    said += [f"in {splits} given splits"] if splits > 1 else []
    return Sheet(f"{len(cluster)} images", ", ".join(said), tiles, len(cluster) - len(tiles))


def _apart(row: dict[Hashable, str], first: dict[Hashable, str]) -> str:
    if row["sha256"] == first["sha256"]:
        return "the same file"
    return f"{distance(row['phash'], first['phash'])} bits apart"


def _tile(report: ValidationReport, path: str, note: str, *, marked: bool = False) -> Tile:
    picture = report.thumbnails.get(path)
    return Tile(embedded(picture, "image/jpeg") if picture else "", path, note, marked)
