"""The model registry: versions and aliases in MLflow, each version linked to a model version in ZenML."""

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
from graft.export.onnx_model import OnnxModel
from graft.integrations.stack import connect_mlflow
from graft.promotion.registration import Registration

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous_champion"
HASH_TAG, ZENML_TAG = "graft.onnx_sha256", "zenml.model_version_id"
TRAINING_FILE = "training_images.json"
NOT_FOUND = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # for a model, for an alias


@dataclass(frozen=True)
class RegisteredModel:
    """A downloaded version: its file, and the SHA-256 of every image that it was trained on."""

    version: str
    model: OnnxModel
    training_hashes: frozenset[str]


def register(model: OnnxModel, name: str, training_hashes: list[str]) -> Registration:
    """Register a model as a new version and as the challenger; a version of an identical file is reused.

    Needs an active MLflow run, which becomes the source of a new version.
    """
    client, run = connect_mlflow(), mlflow.active_run()
    assert run is not None
    existing = _version_by_hash(client, name, model.sha256)
    if existing is not None:  # show it among this run's models, although another run logged it
        model_id = existing.source.removeprefix("models:/")
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model_id, 0)])
    version = existing or _log_version(model, name, training_hashes)
    zenml_version = version.tags.get(ZENML_TAG) or _create_zenml_version(client, version)
    client.set_registered_model_alias(name, CHALLENGER, version.version)
    return Registration(
        name,
        str(version.version),
        f"models:/{name}/{version.version}",
        version.run_id or "",
        zenml_version,
        existing is not None,
    )


def version_by_alias(client: mlflow.MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """The version with an alias, or ``None``."""
    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in NOT_FOUND:
            return None
        raise


def download_version(client: mlflow.MlflowClient, version: ModelVersion) -> RegisteredModel:
    """Download a version; raises ``RegistryError`` if Graft did not register it."""
    with tempfile.TemporaryDirectory() as folder:
        uri = f"models:/{version.name}/{version.version}"
        path = Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder, tracking_uri=client.tracking_uri))
        hashes_file, model_file = next(path.rglob(TRAINING_FILE), None), next(path.rglob("*.onnx"), None)
        if hashes_file is None or model_file is None:
            raise RegistryError(f"{uri} was not registered by Graft: its ONNX file or {TRAINING_FILE} is missing.")
        hashes, model = json.loads(hashes_file.read_text()), OnnxModel(model_file.read_bytes())
    return RegisteredModel(str(version.version), model, frozenset(hashes))


def require_challenger(client: mlflow.MlflowClient, name: str) -> ModelVersion:
    """The challenger; raises ``RegistryError`` if there is none."""
    version = version_by_alias(client, name, CHALLENGER)
    if version is None:
        raise RegistryError(
            f"the registry has no model {name!r} with the alias challenger; run the training pipeline first, "
            f"or check registry.name."
        )
    return version


def promote(client: mlflow.MlflowClient, name: str, version: str) -> str | None:
    """Make a version the champion; the previous champion, whose version is returned, becomes ``previous_champion``."""
    former, promoted = version_by_alias(client, name, CHAMPION), client.get_model_version(name, version)
    if former is not None and str(former.version) != version:
        client.set_registered_model_alias(name, PREVIOUS, former.version)
    client.set_registered_model_alias(name, CHAMPION, version)
    _set_production(promoted)
    return None if former is None else str(former.version)


def roll_back(client: mlflow.MlflowClient, name: str) -> tuple[str, str]:
    """Make the previous champion champion again; returns the champion's versions before and after.

    Raises ``RegistryError`` if there is no previous champion.
    """
    champion, previous = version_by_alias(client, name, CHAMPION), version_by_alias(client, name, PREVIOUS)
    if champion is None or previous is None or champion.version == previous.version:
        raise RegistryError(f"the registry has no previous champion of {name!r}; nothing was changed.")
    client.set_registered_model_alias(name, CHAMPION, previous.version)
    client.delete_registered_model_alias(name, PREVIOUS)
    _set_production(previous)
    return str(champion.version), str(previous.version)


def predict_classes(model: OnnxModel, read: Callable[[str], np.ndarray], paths: list[str]) -> np.ndarray:
    """Predicted class indices, int64 ``[images]``; ``read`` returns an image as uint8 ``[height, width, 3]``."""
    session = model.session()
    progress = tqdm(paths, desc="Comparing", unit="image", disable=None)
    classes = [session.run(None, {"image": read(path)[np.newaxis]})[0][0].argmax() for path in progress]
    return np.array(classes, dtype=np.int64)


def _version_by_hash(client: mlflow.MlflowClient, name: str, sha256: str) -> ModelVersion | None:
    versions = client.search_model_versions(f"name = '{name}' and tags.`{HASH_TAG}` = '{sha256}'", max_results=1)
    return client.get_model_version(name, versions[0].version) if versions else None


def _log_version(model: OnnxModel, name: str, training_hashes: list[str]) -> ModelVersion:
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


def _create_zenml_version(client: mlflow.MlflowClient, version: ModelVersion) -> str:
    """Create a model version in ZenML and link it and MLflow's to each other; returns its id."""
    zenml = Client()
    if not zenml.list_models(name=version.name).items:
        zenml.create_model(version.name, description="Trained and registered by Graft.")
    name = f"mlflow-{version.version}"
    existing = zenml.list_model_versions(version.name, name=name).items
    zenml_version = existing[0] if existing else zenml.create_model_version(version.name, name=name)
    client.set_model_version_tag(version.name, version.version, ZENML_TAG, str(zenml_version.id))
    metadata: dict[str, MetadataType] = {
        "mlflow_name": version.name,
        "mlflow_version": str(version.version),
        "mlflow_uri": f"models:/{version.name}/{version.version}",
        "mlflow_run_id": version.run_id or "",
    }
    log_metadata(metadata=metadata, model_version_id=zenml_version.id)
    return str(zenml_version.id)


def _set_production(version: ModelVersion) -> None:
    if ZENML_TAG not in version.tags:
        raise RegistryError(
            f"version {version.version} of {version.name} is not linked to a model version in ZenML; register it again."
        )
    zenml_version = Client().get_model_version(version.name, UUID(version.tags[ZENML_TAG]))
    zenml_version.set_stage(ModelStages.PRODUCTION, force=True)
