"""Reduces logging; to be imported before ZenML and MLflow are."""

from __future__ import annotations

import logging
import os

from graft.integrations.user_errors import user_error

# Values that the user has set are respected.
for _name, _value in {
    "AUTO_OPEN_DASHBOARD": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}.items():
    os.environ.setdefault(_name, _value)

# Their INFO messages are for their own developers.
for _name in ("great_expectations", "matplotlib", "alembic", "mlflow", "onnxscript", "onnx_ir", "torch.onnx"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class _StepErrorFilter(logging.Filter):
    """Removes the traceback of a known error, whose message is enough, and irrelevant messages."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is logged; it may be changed."""
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and user_error(error):
            record.exc_info = None
            record.exc_text = None
        return not record.getMessage().startswith(("Failed to disable MLflow autologging", "Received signal"))


def install_step_error_filter() -> None:
    """Add the filter to the loggers that print errors of steps; safe to call again."""
    for name in (
        "zenml.orchestrators.local.local_orchestrator",
        "zenml.orchestrators.signal_handler",
        "zenml.orchestrators.step_launcher",
        "zenml.orchestrators.step_runner",
        "zenml.integrations.mlflow.experiment_trackers.mlflow_experiment_tracker",
    ):
        logger = logging.getLogger(name)
        if not any(isinstance(existing, _StepErrorFilter) for existing in logger.filters):
            logger.addFilter(_StepErrorFilter())
