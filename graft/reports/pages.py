"""Self-contained HTML pages for ZenML's dashboard and MLflow."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
from matplotlib.figure import Figure

from graft.data.manifest import Manifest
from graft.data.splits import PARTS, Folds, Split
from graft.data.validation_report import Quarantine
from graft.errors import printable
from graft.promotion.gate import Verdict
from graft.reports.figures import as_png, class_histogram
from graft.training.plan import COLUMNS, TrainingPlan

TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    finalize=lambda value: printable(value) if type(value) is str else value,  # Markup is a subclass: already safe
)
LISTED = 500
Rows = Sequence[Sequence[object]]


def page(
    title: str,
    verdict: str,
    good: bool | None = None,
    figures: Sequence[Figure] = (),
    tables: Mapping[str, tuple[Sequence[str], Rows]] | None = None,
) -> str:
    """One page: a verdict, figures, and tables under their headings; ``good`` colours the verdict."""
    images = [embedded(as_png(figure), "image/png") for figure in figures]
    return render("page.html.jinja", title=title, verdict=verdict, good=good, images=images, tables=tables or {})


def render(template: str, **values: object) -> str:
    """Render a template of ``graft/reports/templates``."""
    return TEMPLATES.get_template(template).render(values)


def embedded(content: bytes, kind: str) -> str:
    """A file as a data URL; ``kind`` is its MIME type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def metadata_page(title: str, verdict: str, metadata: Mapping[str, object]) -> str:
    """A page of names and values."""
    return page(title, verdict, tables={"": (("", ""), list(metadata.items()))})


def verdict_page(verdict: Verdict) -> str:
    """The gate's verdict: every condition with its required and its actual value."""
    rows = [
        ("passed" if condition.passed else "failed", condition.requirement, condition.required, condition.actual)
        for condition in verdict.conditions
    ]
    version, outcome = verdict.comparison.challenger_version, "may be promoted" if verdict.passed else "is refused"
    tables = {"": (("", "condition", "required", "actual"), rows)}
    return page("Promotion gate", f"Version {version} {outcome}", verdict.passed, tables=tables)


def plan_page(plan: TrainingPlan) -> str:
    """The training plan: when each stage of the network is unfrozen, and its learning rate."""
    return page(
        "Training plan",
        f"{plan.summary}; {plan.compute_summary}",
        tables={"Stages, from input to output": (COLUMNS, plan.table())},
    )


def manifest_page(manifest: Manifest) -> str:
    """Counts of images by class and format, and statistics of their sizes."""
    table = manifest.table
    counts = {str(name): int(count) for name, count in table["label"].value_counts().sort_index().items()}
    formats: Rows = table[["format", "mode"]].value_counts().reset_index().to_numpy().tolist()
    sizes = table[["width_px", "height_px", "size_bytes", "brightness", "sharpness"]].describe().round(1)
    tables = {
        "Sizes": (
            ("", *sizes.columns),
            [(name, *row) for name, row in zip(sizes.index, sizes.to_numpy(), strict=True)],
        ),
        "Formats": (("format", "mode", "images"), formats),
    }
    if len(manifest.skipped):
        rows = manifest.skipped.itertuples(index=False, name=None)
        tables["Skipped files"] = (tuple(manifest.skipped.columns), list(rows))
    unreadable = int((table["error"] != "").sum())
    verdict = f"{len(table)} images, {unreadable} of which cannot be read"
    return page("Images", verdict, unreadable == 0, [class_histogram(counts)], tables)


def quarantine_page(quarantine: Quarantine) -> str:
    """The first quarantined images, each with its reason."""
    columns, rows = tuple(quarantine.table.columns), quarantine.table.head(LISTED).to_numpy().tolist()
    return page("Quarantine", f"{len(quarantine.table)} images are left out", tables={"": (columns, rows)})


def split_page(split: Split) -> str:
    """The number of images of each class in each part of the split."""
    counts = split.table.groupby(["label", "part"]).size().unstack(fill_value=0).reindex(columns=PARTS, fill_value=0)
    rows = [(label, *row) for label, row in zip(counts.index, counts.to_numpy(), strict=True)]
    verdict = ", ".join(f"{int(counts[part].sum())} {part}" for part in PARTS if counts[part].sum())
    return page("Split", verdict, tables={"": (("class", *PARTS), [*rows, ("all", *counts.sum())])})


def folds_page(folds: Folds) -> str:
    """The number of images of each class in each fold."""
    counts = folds.table.groupby(["label", "fold"]).size().unstack(fill_value=0)
    rows = [(label, *row) for label, row in zip(counts.index, counts.to_numpy(), strict=True)]
    headings = ("class", *(f"fold {fold}" for fold in counts.columns))
    return page("Folds", f"{len(counts.columns)} folds", tables={"": (headings, [*rows, ("all", *counts.sum())])})
