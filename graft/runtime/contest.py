"""Two registered models on the same unseen images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from graft.data.images import read_rgb
from graft.errors import RegistryError
from graft.promotion import Comparison, compare
from graft.runtime.registry import CHAMPION, RegisteredModel, load, predicted, require_challenger, resolve
from graft.runtime.stack import connect_mlflow


def hold_contest(name: str, root: Path, holdout: pd.DataFrame) -> Comparison:
    """Compare challenger and champion of a model on the held-out rows that neither was trained on.

    Raises ``RegistryError`` where there is no challenger, or where a model does not know a class.
    """
    client = connect_mlflow()
    challenger = load(client, require_challenger(client, name))
    champion_version = resolve(client, name, CHAMPION)
    champion = load(client, champion_version) if champion_version is not None else None
    seen = challenger.training_hashes | (champion.training_hashes if champion else frozenset())
    rows = holdout[~holdout["sha256"].isin(seen)]
    labels = _numbered(challenger, rows["label"])
    return compare(
        (challenger.version, champion.version if champion else None),
        labels,
        _named(challenger, challenger, root, rows),
        _named(champion, challenger, root, rows) if champion else None,
    )


def _classes(model: RegisteredModel) -> list[str]:
    return [str(name) for name in json.loads(model.model.metadata["classes"])]


def _numbered(model: RegisteredModel, labels: pd.Series) -> np.ndarray:
    """Labels by their place in a model's classes; -1 for a class that it does not know."""
    places = {name: place for place, name in enumerate(_classes(model))}
    if unknown := set(labels) - set(places):
        raise RegistryError(
            f"version {model.version} does not know the class {sorted(unknown)[0]!r} of the images; "
            f"compare on images of its classes, or train it anew."
        )
    return np.array([places[label] for label in labels], dtype=np.int64)


def _named(model: RegisteredModel, by: RegisteredModel, root: Path, rows: pd.DataFrame) -> np.ndarray:
    """The classes that a model gives, by their place in another's classes; -1 for one that the other lacks."""
    places = {name: place for place, name in enumerate(_classes(by))}
    translated = np.array([places.get(name, -1) for name in _classes(model)], dtype=np.int64)
    said = predicted(model.model, lambda path: read_rgb(root / path), list(rows["path"]))
    return np.asarray(translated[said])
