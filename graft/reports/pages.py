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
from graft.plan import COLUMNS, TrainingPlan
from graft.promotion import Verdict
from graft.reports.figures import as_png, class_histogram

TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parents[1] / "assets"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
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
    """One page: a verdict on top, figures, tables with a heading each."""
    images = [embedded(as_png(figure), "image/png") for figure in figures]
    return render("page.html.jinja", title=title, verdict=verdict, good=good, images=images, tables=tables or {})


def render(template: str, **values: object) -> str:
    """Fill a template of ``graft/assets``."""
    return TEMPLATES.get_template(template).render(values)


def embedded(content: bytes, kind: str) -> str:
    """A file as an address that holds it, so that a page needs no other file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def facts_page(title: str, verdict: str, facts: Mapping[str, object]) -> str:
    """A page of names and values."""
    return page(title, verdict, tables={"": (("", ""), list(facts.items()))})


def verdict_page(verdict: Verdict) -> str:
    """What the gate said: every condition with what is required and what was found."""
    marks = {True: "passed", False: "failed"}
    rows = [(marks[one.passed], one.asks, one.required, one.actual) for one in verdict.conditions]
    said = f"Version {verdict.comparison.challenger_version} " + (
        "may be promoted" if verdict.passed else "is refused"
    )
    return page("Gate", said, verdict.passed, tables={"": (("", "condition", "required", "found"), rows)})


def plan_page(plan: TrainingPlan) -> str:
    """What happens to each stage of the backbone in training."""
    return page(
        "Training plan",
        f"{plan.verdict}; {plan.how}",
        tables={"Stages, from input to output": (COLUMNS, plan.rows())},
    )


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
    if len(manifest.ignored):
        rows = manifest.ignored.itertuples(index=False, name=None)
        tables["Passed over"] = (tuple(manifest.ignored.columns), list(rows))
    unread = int((table["error"] != "").sum())
    verdict = f"{len(table)} images, {unread} of which cannot be read"
    return page("Images", verdict, unread == 0, [class_histogram(counts)], tables)


def quarantine_page(quarantine: Quarantine) -> str:
    """The first images that are left out, each with its reason."""
    columns, rows = tuple(quarantine.table.columns), quarantine.table.head(LISTED).to_numpy().tolist()
    return page("Quarantine", f"{len(quarantine.table)} images are left out", tables={"": (columns, rows)})


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
