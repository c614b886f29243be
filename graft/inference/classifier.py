"""Prediction with an exported model; imports onnxruntime, Pillow and NumPy only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from graft.data.images import read_rgb
from graft.errors import DataError


@dataclass(frozen=True)
class Prediction:
    """The classes of one image with their probabilities (0..1), the most probable first."""

    path: Path
    classes: list[tuple[str, float]]


def predict(model: Path, images: Iterable[Path]) -> Iterator[Prediction]:
    """Classify image files one by one; raises ``DataError`` if the model or an image cannot be read."""
    session, classes = open_model(model)
    for path in images:
        probabilities = session.run(["probabilities"], {"image": read_rgb(path)[np.newaxis]})[0][0]
        order = np.argsort(-probabilities)
        yield Prediction(path, [(classes[i], float(probabilities[i])) for i in order])


def open_model(model: Path) -> tuple[onnxruntime.InferenceSession, list[str]]:
    """A session, and the class names from the file's metadata; raises ``DataError`` for any other file."""
    if not model.is_file():
        raise DataError(f"{model}: is not a file; give the path of an exported model.onnx.")
    try:
        session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
    # ONNX Runtime's own exception types share no public base class.
    except Exception as error:
        raise DataError(f"{model}: is not an ONNX model exported by Graft ({type(error).__name__}).") from error
    return session, [str(name) for name in classes]
