"""``graft check | demo-data``: validate images without a pipeline, and write demo data."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from graft.cli.arguments import add_command, add_config_arguments, load_parameters, write_errors
from graft.errors import printable

if TYPE_CHECKING:
    from graft.cli.arguments import Commands


def add_commands(commands: Commands) -> None:
    """Add this group's commands."""
    command = add_command(commands, "check", _check, help="validate the images of a config, and write a report")
    add_config_arguments(command)
    command.add_argument(
        "--page", type=Path, default=Path("validation.html"), metavar="FILE", help="the report; default: %(default)s"
    )
    command.add_argument(
        "--data-docs", type=Path, metavar="FOLDER", help="also write the Data Docs of Great Expectations"
    )
    command = add_command(commands, "demo-data", _demo_data, help="write the digits of the demo as an image folder")
    command.add_argument("folder", type=Path, metavar="FOLDER")
    command.add_argument(
        "--per-class", type=int, metavar="N", help="a fixed sample of N images of each class; default: all"
    )


def _check(options: argparse.Namespace) -> None:
    import graft.integrations.logging_setup  # noqa: F401
    from graft.data.expectation_runner import write_data_docs
    from graft.data.manifest import scan
    from graft.data.validation import validate_images
    from graft.data.validation_report import check_blocking_errors
    from graft.reports.validation_page import validation_page

    parameters = load_parameters(options)
    data = parameters.data
    manifest = scan(data.root, data.limits, data.follow_links)
    for note in (manifest.reading, *manifest.remarks):
        print(note)
    report = validate_images(manifest, data.validation, parameters.cross_validation.folds, data.bad_images)
    with write_errors(options.page):
        options.page.write_text(validation_page(report), encoding="utf-8")
    if options.data_docs:
        with write_errors(options.data_docs):
            write_data_docs(report.raw, options.data_docs)
    for result in [*report.failed("quarantine"), *report.failed("warning")]:
        print(result.message)
    for reason, count, examples in manifest.skipped.itertuples(index=False):
        print(f"Skipped: {count} {reason} ({examples}).")
    print(f"{len(report.table)} images, {len(report.quarantine)} left out; the report is {printable(options.page)}.")
    check_blocking_errors(report)


def _demo_data(options: argparse.Namespace) -> None:
    from graft.data.demo_digits import write_digits

    print(write_digits(options.folder, options.per_class))
