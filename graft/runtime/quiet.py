"""Analytics off and known noise silenced; imported before ZenML and MLflow are."""

from __future__ import annotations

import logging
import os

from graft.errors import GraftError

# What a user has set stands; DO_NOT_TRACK is honoured by MLflow and by others.
for _name, _value in {
    "ZENML_ANALYTICS_OPT_IN": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "AUTO_OPEN_DASHBOARD": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}.items():
    os.environ.setdefault(_name, _value)

# These say at INFO what their own developers want to know.
for _name in ("great_expectations", "matplotlib", "alembic", "mlflow", "onnxscript", "onnx_ir", "torch.onnx"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class _WithoutTraceback(logging.Filter):
    """Drop the traceback of what a user can mend: the sentence says it all."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep every record, some of them shortened."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, GraftError):
            record.exc_info = None
            record.exc_text = None
        return "Failed to disable MLflow autologging" not in record.getMessage()


def silence() -> None:
    """Add the filter to the loggers that print errors of steps."""
    for name in (
        "zenml.orchestrators.local.local_orchestrator",
        "zenml.orchestrators.step_launcher",
        "zenml.orchestrators.step_runner",
        "zenml.integrations.mlflow.experiment_trackers.mlflow_experiment_tracker",
    ):
        logger = logging.getLogger(name)
        if not any(isinstance(known, _WithoutTraceback) for known in logger.filters):
            logger.addFilter(_WithoutTraceback())
