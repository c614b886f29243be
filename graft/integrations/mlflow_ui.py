"""Serves MLflow's web interface on this machine only."""

from __future__ import annotations

import os
import sys

from graft.integrations.stack import connect_mlflow, tracking_uri

HOST = "127.0.0.1"


def server_command(uri: str, port: int) -> list[str]:
    """The command that serves the runs and models stored at ``uri``."""
    mlflow = [sys.executable, "-m", "mlflow", "server"]
    stores = ["--backend-store-uri", uri, "--registry-store-uri", uri]
    return [*mlflow, *stores, "--host", HOST, "--port", str(port)]


def serve(port: int) -> None:
    """Replace this process by an MLflow server on 127.0.0.1; if MLflow is remote, print its address instead."""
    uri = tracking_uri()
    if uri.startswith(("http://", "https://")):
        print(f"MLflow runs at {uri}")
        return
    experiment = connect_mlflow().get_experiment_by_name("training_pipeline")
    page = f"/#/experiments/{experiment.experiment_id}/runs" if experiment else ""
    print(f"MLflow is at http://{HOST}:{port}{page} (Ctrl-C stops it)", flush=True)
    os.execv(sys.executable, server_command(uri, port))
