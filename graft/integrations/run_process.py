"""MLflow runs and the process that writes them: a run whose process was killed is closed by the next one.

A process holds a lock file as long as it runs a pipeline, and tags its MLflow runs with the file's name. The operating
system releases the lock when the process ends, however it ends, also in a container and before a reboot.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import mlflow
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities import Run
from pydantic import BaseModel
from zenml.client import Client
from zenml.utils.env_utils import temporary_environment
from zenml.utils.io_utils import get_global_config_directory

from graft.integrations.stack import connect_mlflow
from graft.integrations.tracking import COMPLETE, STATUS

PROCESS = "graft.process"  # the name of the lock file
CONFIG = "graft.config_sha256"
CONTINUES = "graft.continues"  # the MLflow run with the same config that was interrupted or failed
PARENT = "mlflow.parentRunId"
CLOSE_ATTEMPTS = 3
RUN_CONTEXT = "MLFLOW_RUN_CONTEXT"  # from which MLflow takes the tags of each run that it creates


@contextmanager
def tagged_runs(parameters: BaseModel | None) -> Iterator[None]:
    """Tag the MLflow runs that this process creates, and close them if it fails or is interrupted.

    Before, the runs of killed processes are closed. With ``parameters``, the tags say which run is continued. Without
    effect if the steps run in other processes.
    """
    if Client().active_stack.orchestrator.flavor != "local":
        yield
        return
    client = connect_mlflow()
    folder = _lock_folder(client)
    _close_runs_of_killed_processes(client, folder)
    lock = folder / uuid4().hex
    tags = json.loads(os.environ.get(RUN_CONTEXT, "{}")) | {PROCESS: lock.name}
    if parameters is not None:
        tags[CONFIG] = hashlib.sha256(parameters.model_dump_json().encode()).hexdigest()
        if interrupted := _interrupted_run(client, tags[CONFIG]):
            tags[CONTINUES] = interrupted
    with FileLock(lock), temporary_environment({RUN_CONTEXT: json.dumps(tags)}):
        try:
            yield
        except BaseException as error:
            status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
            _end_runs(client, lock.name, status)
            lock.unlink(missing_ok=True)
            raise
        lock.unlink(missing_ok=True)


def _lock_folder(client: MlflowClient) -> Path:
    """The folder of the locks of all processes on this machine whose runs are in this MLflow."""
    name = hashlib.sha256(client.tracking_uri.encode()).hexdigest()[:16]
    folder = Path(get_global_config_directory()) / "graft-processes" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _close_runs_of_killed_processes(client: MlflowClient, folder: Path) -> None:
    for path in folder.iterdir():
        with suppress(Timeout), FileLock(path).acquire(blocking=False):  # otherwise its process is alive
            _close_runs(client, path.name, "KILLED")
            path.unlink(missing_ok=True)


def _end_runs(client: MlflowClient, process: str, status: str) -> None:
    """Give this status to the active runs of this process, and to all others that it did not complete."""
    for attempt in range(1, CLOSE_ATTEMPTS + 1):
        try:
            while mlflow.active_run():  # MLflow would mark it as finished when the process exits
                mlflow.end_run(status)
            _close_runs(client, process, status)
            return
        # An interruption may leave MLflow's database session in the middle of a statement; the next one is a new one.
        except Exception:
            if attempt == CLOSE_ATTEMPTS:
                raise
            time.sleep(0.5)


def _close_runs(client: MlflowClient, process: str, status: str) -> None:
    """Give this status to the runs that a process did not complete."""
    for run in _search(client, PROCESS, process, 1000):
        if run.data.tags.get(STATUS) != COMPLETE:
            client.set_terminated(run.info.run_id, status)


def _interrupted_run(client: MlflowClient, config: str) -> str | None:
    """The id of the latest run with this config, unless it is complete or still running."""
    for run in _search(client, CONFIG, config, 1):
        latest = client.get_run(run.data.tags[PARENT]) if PARENT in run.data.tags else run
        if latest.data.tags.get(STATUS) != COMPLETE and latest.info.status != "RUNNING":
            return str(latest.info.run_id)
    return None


def _search(client: MlflowClient, tag: str, value: str, max_results: int) -> list[Run]:
    """The runs with this tag, the latest first."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments, f"tags.`{tag}` = '{value}'", max_results=max_results))
