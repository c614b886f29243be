"""Runs suites of checks with Great Expectations."""

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
from graft.data.validation_report import CheckResult
from graft.errors import DataError, printable

# This logger sets its own level on import, and reports a temporary folder that is of no interest to the user.
logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)

EXAMPLES = 3
# A ``CheckResult`` names every failing row; the library's result would repeat them several times.
UNEXPECTED_LISTS = (
    "unexpected_list",
    "unexpected_index_list",
    "unexpected_index_query",
    "partial_unexpected_index_list",
)


class ExpectationRunner:
    """Runs suites in one ephemeral context."""

    def __init__(self) -> None:
        self._context = gx.get_context(mode="ephemeral")
        self._context.variables.progress_bars = {"globally": False}
        self._source = self._context.data_sources.add_pandas("images")

    def run(self, suite: str, table: pd.DataFrame, checks: Sequence[Check]) -> tuple[list[CheckResult], dict[str, Any]]:
        """Check a table whose first column names its rows.

        Returns a result for each check, and the library's own result as JSON; raises ``DataError`` if a check cannot
        run.
        """
        for check in checks:
            check.expectation.severity = "critical" if check.severity == "critical" else "warning"
        batch = self._source.add_dataframe_asset(suite).add_batch_definition_whole_dataframe("all")
        expectations = gx.ExpectationSuite(suite, expectations=[check.expectation for check in checks])
        definition = self._context.validation_definitions.add(
            gx.ValidationDefinition(name=suite, data=batch, suite=self._context.suites.add(expectations))
        )
        index = str(table.columns[0])
        suite_result = definition.run(
            batch_parameters={"dataframe": table},
            result_format={"result_format": "COMPLETE", "unexpected_index_column_names": [index]},
        )
        # The library returns results in a different order.
        by_id = {result.expectation_config.id: result for result in suite_result.results}
        check_results = [_check_result(check, by_id[check.expectation.id], index) for check in checks]
        raw = json.loads(json.dumps(suite_result.to_json_dict(), default=str))
        for result in raw["results"]:
            for name in UNEXPECTED_LISTS:
                result["result"].pop(name, None)
        return check_results, raw


def write_data_docs(raw: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Write Great Expectations' own page of each suite result; the pages load their styles from the network."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for suite_result in raw:
        result = expectationSuiteValidationResultSchema.load(suite_result)
        page = DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(result))
        path = folder / f"{suite_result['suite_name']}.html"
        path.write_text(page, encoding="utf-8")
        paths.append(path)
    return paths


def _check_result(check: Check, result: Any, index: str) -> CheckResult:  # noqa: ANN401
    if message := _exception_message(result.exception_info or {}):
        raise DataError(f"the check that {check.requirement} could not run: {message}")
    failing = sorted({str(entry[index]) for entry in result.result.get("unexpected_index_list") or []})
    value = result.result.get("observed_value")
    if value is not None:
        observed = f"found {value}"
    else:
        failures = result.result.get("unexpected_count") or 0
        observed = _summary(failing, failures, result.result.get("element_count"))
    return CheckResult(
        check.name, check.requirement, check.severity, check.config_key, check.hint,
        bool(result.success), observed, failing,
    )  # fmt: skip


def _summary(failing: list[str], failures: int, total: int) -> str:
    if not failures:
        return f"all {total} pass"
    verb = "fails" if failures == 1 else "fail"
    more = ["…"] if len(failing) > EXAMPLES else []
    return f"{failures} of {total} {verb} ({', '.join([*map(printable, failing[:EXAMPLES]), *more])})"


def _exception_message(info: dict[str, Any]) -> str | None:
    """The message of an expectation's exception; the library stores it by metric, or flat if there is one metric."""
    for entry in (info, *info.values()):
        if isinstance(entry, dict) and entry.get("raised_exception"):
            return " ".join(str(entry["exception_message"]).split())
    return None
