"""Recognises errors of libraries that have a cause outside Graft, and says what to do about them."""

from __future__ import annotations

from graft.errors import GraftError, RegistryError, error_chain, error_summary
from graft.places import storage_error


def user_error(error: BaseException) -> GraftError | None:
    """The ``GraftError`` that an error is, was caused by, or should be reported as; None if it is unexpected."""
    chain = error_chain(error)
    raised = next((cause for cause in chain if isinstance(cause, GraftError)), None)
    return raised or storage_error(error) or next(filter(None, map(_connection_error, chain)), None)


def _connection_error(error: BaseException) -> RegistryError | None:
    from mlflow.exceptions import MlflowException  # late: the filter of log messages is set up before MLflow

    if not isinstance(error, MlflowException) or "failed with exception" not in str(error):
        return None
    return unreachable(error)


def unreachable(error: Exception) -> RegistryError:
    """The error for an MLflow that does not answer."""
    request = error_summary(error).split(" failed with exception")[0]
    return RegistryError(
        f"MLflow cannot be reached ({request}); start its server, or activate another stack with `zenml stack set`."
    )
