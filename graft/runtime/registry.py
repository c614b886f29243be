"""The model registry: MLflow's versions and aliases, each version tied to its twin in ZenML."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import mlflow
import numpy as np
import onnx
import onnxruntime
from mlflow.entities import LoggedModelOutput
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from tqdm import tqdm
from zenml import log_metadata
from zenml.client import Client
from zenml.enums import ModelStages
from zenml.metadata.metadata_types import MetadataType

from graft.errors import RegistryError
from graft.onnx_model import OnnxModel
from graft.registration import Registration

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous_champion"
HASH_TAG, ZENML_TAG = "graft.onnx_sha256", "zenml.model_version_id"
TRAINING_FILE = "training_images.json"
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # a model, an alias that is not there


@dataclass(frozen=True)
class RegisteredModel:
    """A version as the registry holds it: its file, and the SHA-256 of every image that it was trained on."""

    version: str
    model: OnnxModel
    training_hashes: frozenset[str]


def register(model: OnnxModel, name: str, training_hashes: list[str]) -> Registration:
    """Make a version of the model the challenger; the same file is never registered twice.

    Needs an active MLflow run, which becomes the version's source where a version is made.
    """
    client, run = mlflow.MlflowClient(), mlflow.active_run()
    assert run is not None
    known = _version_of(client, name, model.sha256)
    if known is not None:  # the run shows the model that it led to, though another run logged it
        logged = known.source.removeprefix("models:/")
        client.log_outputs(run.info.run_id, [LoggedModelOutput(logged, 0)])
    version = known or _log(model, name, training_hashes)
    twin = version.tags.get(ZENML_TAG) or _make_twin(client, version)
    client.set_registered_model_alias(name, CHALLENGER, version.version)
    return Registration(
        name,
        str(version.version),
        f"models:/{name}/{version.version}",
        version.run_id or "",
        twin,
        known is not None,
    )


def resolve(client: mlflow.MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """The version that an alias names, or ``None``."""
    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ABSENT:
            return None
        raise


def load(client: mlflow.MlflowClient, version: ModelVersion) -> RegisteredModel:
    """Download a version as it is registered."""
    with tempfile.TemporaryDirectory() as folder:
        uri = f"models:/{version.name}/{version.version}"
        place = Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder, tracking_uri=client.tracking_uri))
        hashes_file, model_file = next(place.rglob(TRAINING_FILE), None), next(place.rglob("*.onnx"), None)
        if hashes_file is None or model_file is None:
            raise RegistryError(f"{uri} was not registered by Graft: its ONNX file or {TRAINING_FILE} is missing.")
        hashes, model = json.loads(hashes_file.read_text()), OnnxModel(model_file.read_bytes())
    return RegisteredModel(str(version.version), model, frozenset(hashes))


def require_challenger(client: mlflow.MlflowClient, name: str) -> ModelVersion:
    """The challenger; raises ``RegistryError`` where there is none."""
    version = resolve(client, name, CHALLENGER)
    if version is None:
        raise RegistryError(
            f"the registry holds no model {name!r} with the alias challenger; run the training pipeline first, "
            f"or check registry.name."
        )
    return version


def promote(client: mlflow.MlflowClient, name: str, version: str) -> str | None:
    """Make a version the champion and keep the former one as ``previous_champion``; returns the former."""
    former = resolve(client, name, CHAMPION)
    chosen = client.get_model_version(name, version)
    if former is not None and str(former.version) != version:
        client.set_registered_model_alias(name, PREVIOUS, former.version)
    client.set_registered_model_alias(name, CHAMPION, version)
    _set_production(chosen)
    return None if former is None else str(former.version)


def roll_back(client: mlflow.MlflowClient, name: str) -> tuple[str, str]:
    """Make the previous champion champion again; returns the versions before and after.

    Raises ``RegistryError`` where there is no previous champion.
    """
    champion, previous = resolve(client, name, CHAMPION), resolve(client, name, PREVIOUS)
    if champion is None or previous is None or champion.version == previous.version:
        raise RegistryError(f"the registry holds no previous champion of {name!r}; nothing was changed.")
    client.set_registered_model_alias(name, CHAMPION, previous.version)
    client.delete_registered_model_alias(name, PREVIOUS)
    _set_production(previous)
    return str(champion.version), str(previous.version)


def predicted(model: OnnxModel, read: Callable[[str], np.ndarray], paths: list[str]) -> np.ndarray:
    """The class that a registered model gives each image, int64 ``[images]``."""
    session = model.session()
    shown = tqdm(paths, desc="Comparing", unit="image", disable=None)
    classes = [session.run(None, {"image": read(path)[np.newaxis]})[0][0].argmax() for path in shown]
    return np.array(classes, dtype=np.int64)


def _version_of(client: mlflow.MlflowClient, name: str, sha256: str) -> ModelVersion | None:
    found = client.search_model_versions(f"name = '{name}' and tags.`{HASH_TAG}` = '{sha256}'", max_results=1)
    return client.get_model_version(name, found[0].version) if found else None


def _log(model: OnnxModel, name: str, training_hashes: list[str]) -> ModelVersion:
    classes = len(json.loads(model.metadata["classes"]))
    signature = ModelSignature(
        Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3), "image")]),
        Schema([TensorSpec(np.dtype(np.float32), (-1, classes), "probabilities")]),
    )
    with tempfile.TemporaryDirectory() as folder:
        hashes = Path(folder) / TRAINING_FILE
        hashes.write_text(json.dumps(training_hashes))
        logged = mlflow.onnx.log_model(
            onnx.load_from_string(model.content), name="model", registered_model_name=name, signature=signature,
            save_as_external_data=False, extra_files=[str(hashes)],
            pip_requirements=[f"onnxruntime=={onnxruntime.__version__}", f"onnx=={onnx.__version__}"],
        )  # fmt: skip
    client, version = mlflow.MlflowClient(), str(logged.registered_model_version)
    client.set_model_version_tag(name, version, HASH_TAG, model.sha256)
    return client.get_model_version(name, version)


def _make_twin(client: mlflow.MlflowClient, version: ModelVersion) -> str:
    """Make the version's twin in ZenML and tie both to each other; returns its id."""
    zenml = Client()
    if not zenml.list_models(name=version.name).items:
        zenml.create_model(version.name, description="Trained and registered by Graft.")
    twin_name = f"mlflow-{version.version}"
    twins = zenml.list_model_versions(version.name, name=twin_name).items
    twin = twins[0] if twins else zenml.create_model_version(version.name, name=twin_name)
    client.set_model_version_tag(version.name, version.version, ZENML_TAG, str(twin.id))
    place: dict[str, MetadataType] = {
        "mlflow_name": version.name,
        "mlflow_version": str(version.version),
        "mlflow_uri": f"models:/{version.name}/{version.version}",
        "mlflow_run_id": version.run_id or "",
    }
    log_metadata(metadata=place, model_version_id=twin.id)
    return str(twin.id)


def _set_production(version: ModelVersion) -> None:
    if ZENML_TAG not in version.tags:
        raise RegistryError(f"version {version.version} of {version.name} has no twin in ZenML; register it anew.")
    twin = Client().get_model_version(version.name, UUID(version.tags[ZENML_TAG]))
    twin.set_stage(ModelStages.PRODUCTION, force=True)
