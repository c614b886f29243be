"""Self-contained HTML pages for ZenML's dashboard and MLflow."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
from matplotlib.figure import Figure

from graft.figures import as_png, class_histogram
from graft.manifest import Manifest
from graft.promotion import Verdict
from graft.splits import PARTS, Folds, Split
from graft.validation import ValidationReport

TEMPLATE = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "assets"), autoescape=True
).get_template("page.html.jinja")
Rows = Sequence[Sequence[object]]


def page(
    title: str,
    verdict: str,
    good: bool | None = None,
    figures: Sequence[Figure] = (),
    tables: Mapping[str, tuple[Sequence[str], Rows]] | None = None,
) -> str:
    """One page: a verdict on top, figures, tables with a heading each."""
    images = [base64.b64encode(as_png(figure)).decode() for figure in figures]
    return TEMPLATE.render(title=title, verdict=verdict, good=good, images=images, tables=tables or {})


def facts_page(title: str, verdict: str, facts: Mapping[str, object]) -> str:
    """A page of names and values."""
    return page(title, verdict, tables={"": (("", ""), list(facts.items()))})


def validation_page(report: ValidationReport) -> str:
    """The verdict on the images, every check, and what is left out."""
    critical, warnings = report.failed("critical"), report.failed("warning")
    verdict = f"{report.images} images: " + ("not fit to train on" if critical else "fit to train on")
    if count := len(report.quarantine):
        verdict += f", {count} left out"
    if warnings:
        verdict += f", {len(warnings)} warning{'s' if len(warnings) > 1 else ''}"
    marks = {True: "passed", False: "failed"}
    checks = [(marks[one.passed], one.asks, one.severity, one.found) for one in report.outcomes]
    tables: dict[str, tuple[Sequence[str], Rows]] = {"Checks": (("", "the check", "severity", "found"), checks)}
    if count:
        rows = report.quarantine.to_numpy().tolist()
        tables["Left out"] = (("image", "is not so that it", "detail"), rows)
    return page(
        "Validation of the images", verdict, not critical, [class_histogram(report.images_per_class)], tables
    )


def verdict_page(verdict: Verdict) -> str:
    """What the gate said: every condition with what is required and what was found."""
    marks = {True: "passed", False: "failed"}
    rows = [(marks[one.passed], one.asks, one.required, one.actual) for one in verdict.conditions]
    said = f"Version {verdict.comparison.challenger_version} " + (
        "may be promoted" if verdict.passed else "is refused"
    )
    return page("Gate", said, verdict.passed, tables={"": (("", "condition", "required", "found"), rows)})


def manifest_page(manifest: Manifest) -> str:
    """How many images there are, of which classes, sizes and formats."""
    table = manifest.table
    sizes = table[["width_px", "height_px", "size_bytes", "brightness", "sharpness"]].describe().round(1)
    tables = {
        "Sizes": (
            ("", *sizes.columns),
            [(name, *row) for name, row in zip(sizes.index, sizes.to_numpy(), strict=True)],
        ),
        "Formats": (("format", "mode", "images"), _counts(table[["format", "mode"]].value_counts())),
    }
    counts = {str(name): int(count) for name, count in table["label"].value_counts().sort_index().items()}
    unread = int((table["error"] != "").sum())
    verdict = f"{len(table)} images, {unread} of which cannot be read"
    return page("Images", verdict, unread == 0, [class_histogram(counts)], tables)


def split_page(split: Split) -> str:
    """How many images of each class fall into each part."""
    counts = (
        split.table.groupby(["label", "part"]).size().unstack(fill_value=0).reindex(columns=PARTS, fill_value=0)
    )
    rows = [(label, *row) for label, row in zip(counts.index, counts.to_numpy(), strict=True)]
    verdict = ", ".join(f"{int(counts[part].sum())} {part}" for part in PARTS if counts[part].sum())
    return page("Split", verdict, tables={"": (("class", *PARTS), [*rows, ("all", *counts.sum())])})


def folds_page(folds: Folds) -> str:
    """How many images of each class fall into each fold."""
    counts = folds.table.groupby(["label", "fold"]).size().unstack(fill_value=0)
    rows = [(label, *row) for label, row in zip(counts.index, counts.to_numpy(), strict=True)]
    headings = ("class", *(f"fold {fold}" for fold in counts.columns))
    return page("Folds", f"{len(counts.columns)} folds", tables={"": (headings, [*rows, ("all", *counts.sum())])})


def _counts(counts: object) -> Rows:
    return [(*key, count) for key, count in counts.items()]  # type: ignore[attr-defined]
