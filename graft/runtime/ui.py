"""MLflow's pages, for this machine alone."""

from __future__ import annotations

import os
import sys

from graft.runtime.stack import connect_mlflow, tracking_uri

HOST = "127.0.0.1"


def command(uri: str, port: int) -> list[str]:
    """The command that serves the runs and models kept at ``uri``."""
    return [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        uri,
        "--host",
        HOST,
        "--port",
        str(port),
    ]


def serve(port: int) -> None:
    """Serve MLflow on 127.0.0.1, in place of this process; a remote server's address is printed instead."""
    uri = tracking_uri()
    if uri.startswith(("http://", "https://")):
        print(f"MLflow runs at {uri}")
        return
    runs = connect_mlflow().get_experiment_by_name("training_pipeline")
    page = f"/#/experiments/{runs.experiment_id}/runs" if runs else ""
    print(f"MLflow is at http://{HOST}:{port}{page} (Ctrl-C stops it)", flush=True)
    os.execv(sys.executable, command(uri, port))
