"""Arguments and error handling that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from graft.errors import printable
from graft.places import unwritable

if TYPE_CHECKING:
    from graft.config.parameters import TrainingParameters

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], None], *, help: str
) -> argparse.ArgumentParser:
    """Add a command that calls ``run`` with its parsed arguments."""
    command = commands.add_parser(name, help=help)
    command.set_defaults(run=run)
    return command


def add_config_arguments(command: argparse.ArgumentParser) -> None:
    """Add ``CONFIG`` and ``--set KEY=VALUE``."""
    command.add_argument("config", type=Path, metavar="CONFIG")
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a value, such as data.root=photos"
    )


def load_parameters(options: argparse.Namespace) -> TrainingParameters:
    """The validated parameters of a training config with its overrides; raises ``ConfigError``."""
    from graft.config.yaml_file import training_parameters

    return training_parameters(options.config, options.set)


def png_path(text: str) -> Path:
    """An argument type: the path of a PNG file in an existing folder."""
    path = Path(text)
    if path.suffix.lower() != ".png" or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{printable(text)} must end in .png and be in an existing folder")
    return path


def positive_int(text: str) -> int:
    """An argument type: a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{printable(text)} is not a whole number of at least 1")
    return int(text)


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Raise ``StorageError`` if the output ``path`` cannot be written; a half-written file is removed."""
    try:
        yield
    except OSError as error:
        if path.is_file():
            path.unlink(missing_ok=True)
        raise unwritable(error, error.filename or path) from error
