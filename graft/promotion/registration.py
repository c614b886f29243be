"""The record of a registered model version."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Registration:
    """A model version in MLflow, and the id of the model version in ZenML that is linked to it.

    ``reused`` is true if the registry already had a version of the same file.
    """

    name: str
    version: str
    uri: str
    mlflow_run_id: str
    zenml_version: str
    reused: bool
