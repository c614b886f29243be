"""Compares the registered challenger and champion on images that neither was trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from graft.data.images import read_rgb
from graft.errors import RegistryError
from graft.integrations.registry import (
    CHAMPION,
    RegisteredModel,
    download_version,
    predict_classes,
    require_challenger,
    version_by_alias,
)
from graft.integrations.stack import connect_mlflow
from graft.promotion.gate import Comparison, compare


def compare_registered(name: str, root: Path, holdout: pd.DataFrame) -> Comparison:
    """Compare challenger and champion of a model on the holdout records that neither was trained on.

    Raises ``RegistryError`` if there is no challenger, or if it lacks a class of the images.
    """
    client = connect_mlflow()
    challenger = download_version(client, require_challenger(client, name))
    champion_version = version_by_alias(client, name, CHAMPION)
    champion = download_version(client, champion_version) if champion_version is not None else None
    seen = challenger.training_hashes | (champion.training_hashes if champion else frozenset())
    records = holdout[~holdout["sha256"].isin(seen)]
    index_of = {label: index for index, label in enumerate(_class_names(challenger))}
    return compare(
        (challenger.version, champion.version if champion else None),
        _label_indices(challenger, index_of, records["label"]),
        _predicted_indices(challenger, index_of, root, records),
        _predicted_indices(champion, index_of, root, records) if champion else None,
    )


def _class_names(model: RegisteredModel) -> list[str]:
    return [str(name) for name in json.loads(model.model.metadata["classes"])]


def _label_indices(challenger: RegisteredModel, index_of: dict[str, int], labels: pd.Series) -> np.ndarray:
    """Labels as class indices of the challenger, int64 ``[images]``."""
    if unknown := set(labels) - set(index_of):
        raise RegistryError(
            f"version {challenger.version} lacks the class {sorted(unknown)[0]!r} of the images; "
            f"compare on images of its classes, or train it again."
        )
    return np.array([index_of[label] for label in labels], dtype=np.int64)


def _predicted_indices(
    model: RegisteredModel, index_of: dict[str, int], root: Path, records: pd.DataFrame
) -> np.ndarray:
    """A model's predictions as class indices of the challenger, int64 ``[images]``; -1 for a class it lacks."""
    translation = np.array([index_of.get(name, -1) for name in _class_names(model)], dtype=np.int64)
    predictions = predict_classes(model.model, lambda path: read_rgb(root / path), list(records["path"]))
    return np.asarray(translation[predictions])
