"""``graft plan | find-lr``: a forecast of a training run, and a learning rate for it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from graft.cli.arguments import add_command, add_config_arguments, load_parameters, png_path, write_errors
from graft.errors import printable

if TYPE_CHECKING:
    from graft.cli.arguments import Commands


def add_commands(commands: Commands) -> None:
    """Add this group's commands."""
    command = add_command(
        commands, "plan", _plan, help="show the training plan of a run, and its expected time, memory and disk space"
    )
    add_config_arguments(command)
    command = add_command(commands, "find-lr", _find_lr, help="suggest a learning rate, and plot the loss over it")
    add_config_arguments(command)
    command.add_argument("--phase", choices=("warm_up", "fine_tune"), default="warm_up", help="default: warm_up")
    command.add_argument(
        "--figure", type=png_path, default=Path("find-lr.png"), metavar="FILE.png", help="where to save the plot"
    )


def _plan(options: argparse.Namespace) -> None:
    import graft.integrations.logging_setup  # noqa: F401
    from graft.training.forecast import forecast

    plan, resources = forecast(load_parameters(options))
    print(f"{plan.describe()}\n\n{resources.describe()}")


def _find_lr(options: argparse.Namespace) -> None:
    import graft.integrations.logging_setup  # noqa: F401
    from graft.reports.figures import as_png
    from graft.reports.training_figures import lr_finder_curve
    from graft.training.lr_finder import find_lr

    result = find_lr(load_parameters(options), options.phase)
    key = f"training.{options.phase}.learning_rate"
    with write_errors(options.figure):
        options.figure.write_bytes(as_png(lr_finder_curve(result, key)))
    print(f"{key}: {result.suggestion:.1e}; the curve is {printable(options.figure)}.")
