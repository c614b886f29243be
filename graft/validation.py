"""Are these images fit to train on? Great Expectations judges the manifest; nothing is changed."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from typing import Any

import great_expectations as gx
import pandas as pd
from great_expectations import expectations as gxe

from graft.config import ValidationConfig
from graft.errors import DataError
from graft.manifest import Manifest

# This one sets its own level when it is imported, and tells of a folder that nobody asked for.
logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)

FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "MPO"]
EXAMPLES = 3
SEVERITIES = ("critical", "quarantine", "warning")


@dataclass(frozen=True)
class Check:
    """One expectation: what it asks, how it weighs, and the key of ``data.validation`` that relaxes it.

    ``critical`` stops the pipeline, ``quarantine`` leaves the failing images out, ``warning`` is told.
    """

    asks: str
    severity: str
    key: str
    expectation: Any


@dataclass(frozen=True)
class Outcome:
    """What became of one check. ``failing`` names the images, where the check is about single images."""

    asks: str
    severity: str
    key: str
    passed: bool
    found: str
    failing: list[str]


@dataclass(frozen=True)
class ValidationReport:
    """All outcomes; ``quarantine`` has the columns ``path, reason, detail``; ``raw`` is what the library said."""

    outcomes: list[Outcome]
    quarantine: pd.DataFrame
    images: int
    images_per_class: dict[str, int]
    raw: list[dict[str, Any]]

    @property
    def quarantined(self) -> set[str]:
        """The paths of the images that are left out."""
        return set(self.quarantine["path"])

    def failed(self, severity: str) -> list[Outcome]:
        """The checks of a severity that did not pass."""
        return [outcome for outcome in self.outcomes if outcome.severity == severity and not outcome.passed]


def validate(manifest: Manifest, config: ValidationConfig) -> ValidationReport:
    """Judge single images, leave the failing ones out, then judge what is left as a whole."""
    table = manifest.table
    outcomes, raw = _judge(_with_aspect(table), image_checks(config))
    rows = [
        {"path": path, "reason": outcome.asks, "detail": _detail(table, path)}
        for outcome in outcomes
        if outcome.severity == "quarantine"
        for path in outcome.failing
    ]
    quarantine = pd.DataFrame(rows, columns=["path", "reason", "detail"]).drop_duplicates(
        "path", ignore_index=True
    )
    left = table[~table["path"].isin(quarantine["path"])].reset_index(drop=True)
    counts = left["label"].value_counts().reindex(manifest.classes, fill_value=0)
    for frame, checks in (
        (left, table_checks(config)),
        (counts.rename_axis("label").reset_index(name="images"), class_checks(config, counts)),
    ):
        more, more_raw = _judge(frame, checks)
        outcomes, raw = [*outcomes, *more], [*raw, *more_raw]
    return ValidationReport(outcomes, quarantine, len(table), {str(k): int(v) for k, v in counts.items()}, raw)


def image_checks(config: ValidationConfig) -> list[Check]:
    """What each single image must be."""
    sides = {"min_value": config.min_side_px}
    return [
        Check("decodes whole", "quarantine", "on_bad_images",
              gxe.ExpectColumnValuesToBeInSet(column="error", value_set=[""])),
        Check("has a known format", "quarantine", "on_bad_images",
              gxe.ExpectColumnValuesToBeInSet(column="format", value_set=FORMATS)),
        Check(f"is at least {config.min_side_px} px wide", "quarantine", "min_side_px",
              gxe.ExpectColumnValuesToBeBetween(column="width_px", **sides)),
        Check(f"is at least {config.min_side_px} px high", "quarantine", "min_side_px",
              gxe.ExpectColumnValuesToBeBetween(column="height_px", **sides)),
        Check(f"has an aspect ratio of at most {config.max_aspect_ratio:g}", "quarantine", "max_aspect_ratio",
              gxe.ExpectColumnValuesToBeBetween(column="aspect_ratio", max_value=config.max_aspect_ratio)),
        Check(f"has a mean brightness of {config.min_brightness:g} to {config.max_brightness:g}", "warning",
              "min_brightness or max_brightness", gxe.ExpectColumnValuesToBeBetween(
                  column="brightness", min_value=config.min_brightness, max_value=config.max_brightness)),
        Check("is no exact copy of another", "warning", "max_duplicate_fraction",
              gxe.ExpectColumnValuesToBeUnique(column="sha256", mostly=1 - config.max_duplicate_fraction)),
    ]  # fmt: skip


def table_checks(config: ValidationConfig) -> list[Check]:
    """What the images must be together."""
    return [
        Check(f"there are at least {config.min_images} images", "critical", "min_images",
              gxe.ExpectTableRowCountToBeBetween(min_value=config.min_images)),
        Check("every image has a path", "critical", "", gxe.ExpectColumnValuesToNotBeNull(column="path")),
        Check("no path is listed twice", "critical", "", gxe.ExpectColumnValuesToBeUnique(column="path")),
        Check("every image has a label", "critical", "",
              gxe.ExpectColumnValueLengthsToBeBetween(column="label", min_value=1)),
        Check("there are at least 2 classes", "critical", "",
              gxe.ExpectColumnUniqueValueCountToBeBetween(column="label", min_value=2)),
    ]  # fmt: skip


def class_checks(config: ValidationConfig, counts: pd.Series) -> list[Check]:
    """What each class must be; ``counts`` holds the images of each."""
    least = math.ceil(counts.max() / config.max_imbalance) if len(counts) else 0
    return [
        Check(f"each class has at least {config.min_images_per_class} images", "critical", "min_images_per_class",
              gxe.ExpectColumnValuesToBeBetween(column="images", min_value=config.min_images_per_class)),
        Check(f"no class is {config.max_imbalance:g} times larger than another", "warning", "max_imbalance",
              gxe.ExpectColumnValuesToBeBetween(column="images", min_value=least)),
    ]  # fmt: skip


def require_fit(report: ValidationReport, config: ValidationConfig) -> None:
    """Raise ``DataError`` with one sentence for each reason not to train on these images."""
    reasons = [
        f"not so that {outcome.asks}: {outcome.found}{_relax(outcome.key)}"
        for outcome in report.failed("critical")
    ]
    count = len(report.quarantine)
    examples = ", ".join(report.quarantine["path"][:EXAMPLES])
    if count and config.on_bad_images == "fail":
        reasons.append(
            f"{count} of {report.images} images are bad, such as {examples}; remove them, "
            f"or set data.validation.on_bad_images to quarantine"
        )
    elif count > config.max_quarantined_fraction * report.images:
        reasons.append(
            f"{count} of {report.images} images are bad, such as {examples} ({report.quarantine['reason'][0]}: "
            f"failed); remove them, or raise data.validation.max_quarantined_fraction "
            f"({config.max_quarantined_fraction:g})"
        )
    if reasons:
        raise DataError("; ".join(reasons) + ".")


def _judge(table: pd.DataFrame, checks: list[Check]) -> tuple[list[Outcome], list[dict[str, Any]]]:
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    batch = (
        context.data_sources.add_pandas("images")
        .add_dataframe_asset("table")
        .add_batch_definition_whole_dataframe("all")
    )
    for check in checks:
        check.expectation.severity = "critical" if check.severity == "critical" else "warning"
    suite = context.suites.add(gx.ExpectationSuite("images", expectations=[check.expectation for check in checks]))
    definition = context.validation_definitions.add(gx.ValidationDefinition(name="all", data=batch, suite=suite))
    index = "path" if "path" in table else "label"
    result = definition.run(
        batch_parameters={"dataframe": table},
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": [index]},
    )
    outcomes = [_outcome(check, one, index) for check, one in zip(checks, _in_order(result, checks), strict=True)]
    return outcomes, [json.loads(json.dumps(one.to_json_dict(), default=str)) for one in result.results]


def _in_order(result: Any, checks: list[Check]) -> list[Any]:  # noqa: ANN401
    """The library returns its results in an order of its own; match them by the expectation's id."""
    by_id = {one.expectation_config.id: one for one in result.results}
    return [by_id[check.expectation.id] for check in checks]


def _outcome(check: Check, one: Any, index: str) -> Outcome:  # noqa: ANN401
    if raised := _raised(one.exception_info or {}):
        raise DataError(f"the check that {check.asks} could not run: {raised}")
    failing = sorted({str(entry[index]) for entry in one.result.get("unexpected_index_list") or []})
    observed = one.result.get("observed_value")
    found = f"found {observed}" if observed is not None else _found(failing)
    return Outcome(check.asks, check.severity, check.key, bool(one.success), found, failing)


def _raised(info: dict[str, Any]) -> str | None:
    """What an expectation raised: the library keeps it by metric, or flat where there is one."""
    for one in (info, *info.values()):
        if isinstance(one, dict) and one.get("raised_exception"):
            return " ".join(str(one["exception_message"]).split())
    return None


def _found(failing: list[str]) -> str:
    if not failing:
        return "all do"
    more = ", …" if len(failing) > EXAMPLES else ""
    return f"{len(failing)} do not: {', '.join(failing[:EXAMPLES])}{more}"


def _relax(key: str) -> str:
    return f" (data.validation.{key} relaxes this)" if key else ""


def _with_aspect(table: pd.DataFrame) -> pd.DataFrame:
    long, short = table[["width_px", "height_px"]].max(axis=1), table[["width_px", "height_px"]].min(axis=1)
    return table.assign(aspect_ratio=long / short.clip(lower=1))


def _detail(table: pd.DataFrame, path: str) -> str:
    row = table[table["path"] == path].iloc[0]
    return str(
        row["error"] or f"{row['width_px']} x {row['height_px']} px, {row['format']}, {row['size_bytes']} bytes"
    )
