"""``graft predict | rollback``: use an exported model, and restore the previous champion."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from graft.cli.arguments import add_command, positive_int
from graft.errors import DataError

if TYPE_CHECKING:
    from graft.cli.arguments import Commands


def add_commands(commands: Commands) -> None:
    """Add this group's commands."""
    command = add_command(commands, "predict", _predict, help="classify images with an exported model")
    command.add_argument("model", type=Path, metavar="MODEL.onnx")
    command.add_argument(
        "images", nargs="+", metavar="IMAGE", help="files, folders (all images in and below them), or quoted globs"
    )
    command.add_argument(
        "--top", type=positive_int, default=3, metavar="K", help="print the K most probable classes; default: 3"
    )
    command.add_argument("--json", action="store_true", help="print one JSON object a line")
    command = add_command(commands, "rollback", _rollback, help="make the previous champion the champion again")
    command.add_argument("name", metavar="NAME", help="the model's name in the registry")


def _predict(options: argparse.Namespace) -> None:
    from graft.inference.classifier import predict

    total = bad = 0
    for prediction in predict(options.model, options.images):
        print(prediction.to_json(options.top) if options.json else prediction.to_row(options.top), flush=True)
        total += 1
        bad += bool(prediction.error)
    if bad:
        raise DataError(f"{bad} of {total} images could not be classified; their lines say why.")


def _rollback(options: argparse.Namespace) -> None:
    import graft.integrations.logging_setup  # noqa: F401
    from graft.integrations.registry import roll_back
    from graft.integrations.stack import connect_mlflow

    before, after = roll_back(connect_mlflow(), options.name)
    print(f"Version {after} of {options.name} is the champion again, in place of version {before}.")
