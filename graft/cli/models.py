"""``graft predict | rollback``: use an exported model, and restore the previous champion."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from graft.cli.arguments import add_command

if TYPE_CHECKING:
    from graft.cli.arguments import Commands


def add_commands(commands: Commands) -> None:
    """Add this group's commands."""
    command = add_command(commands, "predict", _predict, help="classify images with an exported model")
    command.add_argument("model", type=Path, metavar="MODEL.onnx")
    command.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    command = add_command(commands, "rollback", _rollback, help="make the previous champion the champion again")
    command.add_argument("name", metavar="NAME", help="the model's name in the registry")


def _predict(options: argparse.Namespace) -> None:
    from graft.inference.classifier import predict

    for prediction in predict(options.model, options.images):
        top = "  ".join(f"{name} {probability:.1%}" for name, probability in prediction.classes[:3])
        print(f"{prediction.path}\t{top}")


def _rollback(options: argparse.Namespace) -> None:
    import graft.integrations.logging_setup  # noqa: F401
    from graft.integrations.registry import roll_back
    from graft.integrations.stack import connect_mlflow

    before, after = roll_back(connect_mlflow(), options.name)
    print(f"Version {after} of {options.name} is the champion again, in place of version {before}.")
