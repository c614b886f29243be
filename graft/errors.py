"""Errors that a user can cause, and helpers for their messages: one sentence with what, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


class GraftError(Exception):
    """A user error: printed without a traceback, exit code 1.

    As text it is printable: file names and other parts of it come from outside.
    """

    exit_code = 1

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigError(GraftError):
    """An invalid config; nothing has started. Exit code 2."""

    exit_code = 2


class DataError(GraftError):
    """Images that cannot be read or trained on."""


class StorageError(GraftError):
    """A file that cannot be written."""


class WeightsError(GraftError):
    """Pretrained weights that cannot be loaded."""


class TrainingError(GraftError):
    """Training that failed, or changed frozen weights."""


class PhaseError(TrainingError):
    """A training phase that made the model worse than it was before the phase."""


class ExportError(GraftError):
    """An exported model that is invalid or differs from its checkpoint."""


class PromotionRefusedError(GraftError):
    """A challenger that failed a condition of the promotion gate."""


class RegistryError(GraftError):
    """The registry lacks the requested model or alias."""


def error_chain(error: BaseException | None) -> list[BaseException]:
    """An error and what caused it, outermost first."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def printable(name: object) -> str:
    """The text on one line, with unprintable characters escaped."""
    text = str(name).encode("utf-8", "backslashreplace").decode("utf-8")
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def error_summary(error: Exception) -> str:
    """A library's error on one line, without the memory address of a buffer: the text is the same in every run."""
    text = printable(" ".join(str(error).split()).split(" <_io.")[0])
    return text if text and isinstance(error, OSError) else f"{type(error).__name__}: {text}"


def did_you_mean(allowed: Sequence[str], received: str) -> str:
    """The end of a message: the allowed values, and the one closest to ``received`` if any is similar."""
    nearest = difflib.get_close_matches(received, allowed, n=1)
    hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
    return f"allowed are {', '.join(allowed)}{hint}."
