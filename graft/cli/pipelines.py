"""``graft setup | run | promote | summary | ui``: the local stack and its pipelines."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from graft.cli.arguments import add_command, add_config_arguments
from graft.gc_tuning import gc_paused

if TYPE_CHECKING:
    from graft.cli.arguments import Commands


def add_commands(commands: Commands) -> None:
    """Add this group's commands."""
    add_command(commands, "setup", _setup, help="create and activate the local stack; can be run again")
    for name, pipeline, description in (
        ("run", "training", "check a config and train: from images to a challenger"),
        ("promote", "promotion", "check a config and promote the challenger if it passes the gate"),
    ):
        command = add_command(commands, name, _run, help=description)
        add_config_arguments(command)
        command.set_defaults(pipeline=pipeline)
    add_command(commands, "summary", _summary, help="print the results of the latest training run")
    command = add_command(commands, "ui", _ui, help="open MLflow on 127.0.0.1")
    command.add_argument("--port", type=int, default=5000)


def _setup(_: argparse.Namespace) -> None:
    import graft.integrations.logging_setup  # noqa: F401
    from graft.integrations.stack import STACK, set_up

    set_up(Path.cwd())
    print(f"The stack {STACK!r} is active for this repository.")


def _run(options: argparse.Namespace) -> None:
    with gc_paused():
        import graft.integrations.logging_setup  # noqa: F401
        from graft.integrations.run_pipeline import run

    run(options.pipeline, options.config, options.set)


def _summary(_: argparse.Namespace) -> None:
    import graft.integrations.logging_setup  # noqa: F401
    from graft.integrations.summary import summary

    print(summary())


def _ui(options: argparse.Namespace) -> None:
    import graft.integrations.logging_setup  # noqa: F401
    from graft.integrations.mlflow_ui import serve

    serve(options.port)
