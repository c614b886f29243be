"""The local ZenML stack with its MLflow experiment tracker, and the connection to MLflow."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname
from uuid import UUID

import mlflow
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from zenml.client import Client
from zenml.config.global_config import GlobalConfiguration
from zenml.enums import StackComponentType
from zenml.integrations.mlflow.experiment_trackers import MLFlowExperimentTracker
from zenml.utils.env_utils import temporary_environment
from zenml.utils.io_utils import get_global_config_directory

from graft.errors import GraftError, StorageError, printable
from graft.integrations.user_errors import unreachable

STACK = "graft"
TRACKER = "graft_mlflow"
UNITY_CATALOG = "databricks-uc"
HTTP_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
logger = logging.getLogger(__name__)


def set_up(repository: Path) -> None:
    """Create the stack if it is missing, and activate it for this repository.

    Safe to call again, and from several processes at once.
    """
    folder = Path(get_global_config_directory())
    check_folder_name(str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    # Two processes that create the databases at the same time would corrupt them.
    with FileLock(folder / "graft-setup.lock"):
        if not (folder / "config.yaml").exists():  # otherwise the user's choice is respected
            GlobalConfiguration().analytics_opt_in = False
        if not (repository / ".zen").is_dir():
            Client.initialize(repository)
        client = Client()
        client.activate_root(repository)
        _create_stack(client)
        client.activate_stack(STACK)
        connect_mlflow()


def tracking_uri() -> str:
    """Where MLflow stores runs and models.

    Raises ``GraftError`` if the active stack has no MLflow tracker, ``StorageError`` if ZenML's folder is unsuitable.
    """
    check_folder_name(get_global_config_directory())
    tracker = Client().active_stack.experiment_tracker
    if not isinstance(tracker, MLFlowExperimentTracker):
        raise GraftError(
            f"the active ZenML stack {Client().active_stack_model.name!r} has no MLflow experiment tracker; "
            f"run `graft setup`, or `zenml stack set` with a stack that has one."
        )
    return tracker.get_tracking_uri()


def connect_mlflow() -> MlflowClient:
    """A client of the active stack's MLflow, with its credentials; raises ``RegistryError`` if it does not answer.

    Runs and models are in one place: an inherited ``MLFLOW_REGISTRY_URI`` is ignored with a warning.
    """
    uri = tracking_uri()
    tracker = Client().active_stack.experiment_tracker
    assert isinstance(tracker, MLFlowExperimentTracker)
    tracker.configure_mlflow()
    registry_uri = UNITY_CATALOG if tracker.config.enable_unity_catalog else uri
    inherited = os.environ.get("MLFLOW_REGISTRY_URI", registry_uri)
    if inherited != registry_uri:
        logger.warning("MLFLOW_REGISTRY_URI (%s) is ignored: models are registered where runs are stored.", inherited)
    mlflow.set_registry_uri(registry_uri)
    client = MlflowClient(uri, registry_uri)
    retries = os.environ.get(HTTP_RETRIES, "1")  # MLflow's default would take four minutes
    try:
        with temporary_environment({HTTP_RETRIES: retries}):
            client.search_experiments(max_results=1)
    except MlflowException as error:
        raise unreachable(error) from error
    return client


def check_folder_name(folder: str) -> None:
    """Raise ``StorageError`` if the name of ZenML's folder would be another one as a part of an address."""
    if url2pathname(urlsplit(f"file:{folder}").path) != folder:
        raise StorageError(
            f"{printable(folder)}: cannot be ZenML's folder, because ZenML and MLflow read %, ? or # in its name as "
            f"parts of an address; set ZENML_CONFIG_PATH to another folder."
        )


def _create_stack(client: Client) -> None:
    if client.list_stacks(name=STACK).items:
        return
    trackers = client.list_stack_components(name=TRACKER, type=StackComponentType.EXPERIMENT_TRACKER).items
    tracker = trackers[0] if trackers else client.create_stack_component(
        TRACKER, flavor="mlflow", component_type=StackComponentType.EXPERIMENT_TRACKER, configuration={}
    )  # fmt: skip
    components: dict[StackComponentType, str | UUID] = {
        StackComponentType.ORCHESTRATOR: "default",
        StackComponentType.ARTIFACT_STORE: "default",
        StackComponentType.EXPERIMENT_TRACKER: tracker.id,
    }
    client.create_stack(STACK, components)
