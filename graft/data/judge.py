"""Great Expectations at work: a table, a suite of checks, and what became of each."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import great_expectations as gx
import pandas as pd
from great_expectations.core.expectation_validation_result import expectationSuiteValidationResultSchema
from great_expectations.render.renderer import ValidationResultsPageRenderer
from great_expectations.render.view import DefaultJinjaPageView

from graft.data.expectations import Check
from graft.data.validation_report import Outcome
from graft.errors import DataError, shown

# This one sets its own level when it is imported, and tells of a folder that nobody asked for.
logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)

EXAMPLES = 3
# What fails is named in the outcomes; the library would list it several times over.
LISTS = ("unexpected_list", "unexpected_index_list", "unexpected_index_query", "partial_unexpected_index_list")


class Judge:
    """Runs suites in one ephemeral context."""

    def __init__(self) -> None:
        self._context = gx.get_context(mode="ephemeral")
        self._context.variables.progress_bars = {"globally": False}
        self._source = self._context.data_sources.add_pandas("images")

    def __call__(
        self, suite: str, table: pd.DataFrame, checks: Sequence[Check]
    ) -> tuple[list[Outcome], dict[str, Any]]:
        """Judge a table whose first column names its rows; returns the outcomes, and what the library said."""
        for check in checks:
            check.expectation.severity = "critical" if check.severity == "critical" else "warning"
        batch = self._source.add_dataframe_asset(suite).add_batch_definition_whole_dataframe("all")
        expectations = gx.ExpectationSuite(suite, expectations=[check.expectation for check in checks])
        definition = self._context.validation_definitions.add(
            gx.ValidationDefinition(name=suite, data=batch, suite=self._context.suites.add(expectations))
        )
        index = str(table.columns[0])
        result = definition.run(
            batch_parameters={"dataframe": table},
            result_format={"result_format": "COMPLETE", "unexpected_index_column_names": [index]},
        )
        # The library returns its results in an order of its own.
        by_id = {one.expectation_config.id: one for one in result.results}
        outcomes = [_outcome(check, by_id[check.expectation.id], index) for check in checks]
        return outcomes, _trimmed(json.loads(json.dumps(result.to_json_dict(), default=str)))


def write_data_docs(raw: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Write Great Expectations' own page of each suite's result; their styles come from the network."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for one in raw:
        result = expectationSuiteValidationResultSchema.load(one)
        page = DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(result))
        written.append(folder / f"{one['suite_name']}.html")
        written[-1].write_text(page, encoding="utf-8")
    return written


def _outcome(check: Check, one: Any, index: str) -> Outcome:  # noqa: ANN401
    if raised := _raised(one.exception_info or {}):
        raise DataError(f"the check that {check.asks} could not run: {raised}")
    failing = sorted({str(entry[index]) for entry in one.result.get("unexpected_index_list") or []})
    observed, judged = one.result.get("observed_value"), one.result.get("element_count")
    count = one.result.get("unexpected_count") or 0
    found = f"found {observed}" if observed is not None else _found(failing, count, judged)
    return Outcome(
        check.name, check.asks, check.severity, check.key, check.advice, bool(one.success), found, failing
    )


def _found(failing: list[str], count: int, judged: int) -> str:
    if not count:
        return f"all {judged} pass"
    verb = "fails" if count == 1 else "fail"
    more = ["…"] if len(failing) > EXAMPLES else []
    return f"{count} of {judged} {verb} ({', '.join([*map(shown, failing[:EXAMPLES]), *more])})"


def _raised(info: dict[str, Any]) -> str | None:
    """What an expectation raised: the library keeps it by metric, or flat where there is one."""
    for one in (info, *info.values()):
        if isinstance(one, dict) and one.get("raised_exception"):
            return " ".join(str(one["exception_message"]).split())
    return None


def _trimmed(raw: dict[str, Any]) -> dict[str, Any]:
    for one in raw["results"]:
        for name in LISTS:
            one["result"].pop(name, None)
    return raw
