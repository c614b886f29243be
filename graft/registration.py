"""What the registry says of a model version."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Registration:
    """A model version in MLflow and its twin in ZenML.

    ``reused`` is true where the registry already held a version of the same file.
    """

    name: str
    version: str
    uri: str
    mlflow_run_id: str
    zenml_version: str
    reused: bool
