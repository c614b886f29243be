"""The local ZenML stack with its MLflow experiment tracker, and the connection to MLflow."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from filelock import FileLock
from mlflow import MlflowClient
from zenml.client import Client
from zenml.config.global_config import GlobalConfiguration
from zenml.enums import StackComponentType
from zenml.integrations.mlflow.experiment_trackers import MLFlowExperimentTracker
from zenml.utils.io_utils import get_global_config_directory

from graft.errors import GraftError

STACK = "graft"
TRACKER = "graft_mlflow"


def set_up(repository: Path) -> None:
    """Create the stack if it is missing, and activate it for this repository.

    Safe to call again, and from several processes at once.
    """
    folder = Path(get_global_config_directory())
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
        MlflowClient(tracking_uri()).search_experiments(max_results=1)


def tracking_uri() -> str:
    """Where MLflow stores runs and models; raises ``GraftError`` if the active stack has no MLflow tracker."""
    tracker = Client().active_stack.experiment_tracker
    if not isinstance(tracker, MLFlowExperimentTracker):
        raise GraftError(
            f"the active ZenML stack {Client().active_stack_model.name!r} has no MLflow experiment tracker; "
            f"run `graft setup`, or `zenml stack set` with a stack that has one."
        )
    return tracker.get_tracking_uri()


def connect_mlflow() -> MlflowClient:
    """A client of the active stack's MLflow, with its credentials."""
    uri = tracking_uri()
    tracker = Client().active_stack.experiment_tracker
    assert isinstance(tracker, MLFlowExperimentTracker)
    tracker.configure_mlflow()
    return MlflowClient(uri)


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
