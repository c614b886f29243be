"""Prediction with an exported model; imports onnxruntime, Pillow and NumPy only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from graft.config.image_sources import MAX_FILE_BYTES
from graft.config.regular_file import read_regular_file
from graft.data.images import decode
from graft.errors import DataError, error_summary, printable
from graft.inference.image_files import find_image_files

INPUT = "image tensor(uint8) [?, ?, ?, 3]"
SILENT = 4  # ONNX Runtime's logs would repeat text from the file


@dataclass(frozen=True)
class Prediction:
    """The classes of one image with their probabilities (0..1), the most probable first.

    ``error`` says why there are none; empty if there are.
    """

    path: Path
    classes: list[tuple[str, float]]
    error: str = ""

    def to_row(self, top: int) -> str:
        """The path and the ``top`` most probable classes, or the error, as one line of printable text."""
        classes = "  ".join(f"{printable(name)} {probability:.1%}" for name, probability in self.classes[:top])
        return f"{printable(self.path)}\t{f'error: {printable(self.error)}' if self.error else classes}"

    def to_json(self, top: int) -> str:
        """The same as one line of JSON: ``path``, and ``classes`` (``name``, ``probability``) or ``error``."""
        classes = [{"name": name, "probability": probability} for name, probability in self.classes[:top]]
        return json.dumps({"path": str(self.path)} | ({"error": self.error} if self.error else {"classes": classes}))


class Classifier:
    """An exported model. All that is assumed of the file is checked when it is opened."""

    def __init__(self, path: Path) -> None:
        """Open a file; raises ``DataError`` if it is not a model exported by Graft."""
        self.path = path
        self._session = _load(path)
        try:
            self.classes = _class_names(self._session)
            _check_signature(self._session, len(self.classes))
            self.probabilities(np.zeros((32, 32, 3), np.uint8))
        except DataError as error:
            raise DataError(
                f"{printable(path)}: is not a model exported by Graft ({error}); give the model.onnx of a training run."
            ) from error

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """Calibrated probabilities float32 ``[classes]`` of an image uint8 ``[height, width, 3]``, upright RGB.

        Raises ``DataError`` if ONNX Runtime fails, or if they are not within 0..1.
        """
        try:
            result = np.asarray(self._session.run(["probabilities"], {"image": pixels[np.newaxis]})[0])
        # ONNX Runtime's own exception types share no public base class.
        except Exception as error:
            raise DataError(f"ONNX Runtime fails: {error_summary(error)}") from error
        if result.shape != (1, len(self.classes)) or not ((result >= 0) & (result <= 1.001)).all():
            raise DataError(f"the model gives something else than {len(self.classes)} probabilities")
        return np.asarray(result[0])

    def classify(self, path: Path) -> Prediction:
        """Classify an image file, read under the default limits of ``data.limits`` for bytes and pixels."""
        try:
            probabilities = self.probabilities(np.asarray(decode(read_regular_file(path, MAX_FILE_BYTES)).rgb))
        except DataError as error:
            return Prediction(path, [], str(error))
        except OSError as error:
            return Prediction(path, [], f"cannot be read ({error.strerror})")
        except MemoryError:
            return Prediction(path, [], "does not fit into memory")
        order = np.argsort(-probabilities, kind="stable")
        return Prediction(path, [(self.classes[i], float(probabilities[i])) for i in order])


def predict(model: Path, images: Iterable[str | Path]) -> Iterator[Prediction]:
    """Classify files, folders and globs, one prediction a file; one that fails has an ``error``, and the rest follow.

    Raises ``DataError`` if the model cannot be used.
    """
    classifier = Classifier(model)
    for file in find_image_files(images):
        yield Prediction(file.path, [], file.problem) if file.problem else classifier.classify(file.path)


def _load(path: Path) -> onnxruntime.InferenceSession:
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "not a file"
        raise DataError(f"{printable(path)}: is {kind}; give the path of an exported model.onnx.")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    # As above; and the bindings raise others, such as UnicodeEncodeError.
    except Exception as error:
        raise DataError(
            f"{printable(path)}: is not a model that ONNX Runtime {onnxruntime.__version__} can load "
            f"({error_summary(error)}); give a model exported by Graft, or update onnxruntime."
        ) from error


def _class_names(session: onnxruntime.InferenceSession) -> list[str]:
    try:
        names = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
    except (KeyError, ValueError, RecursionError) as error:  # ValueError: no JSON, or no UTF-8
        raise DataError("its metadata holds no class names") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len({*names}) < len(names):
        raise DataError("the class names in its metadata are not a list of different texts")
    return names


def _check_signature(session: onnxruntime.InferenceSession, classes: int) -> None:
    outputs = f"probabilities tensor(float) [?, {classes}]"
    for kind, expected, values in (("input", INPUT, session.get_inputs()), ("output", outputs, session.get_outputs())):
        if (actual := _signature(values)) != expected:
            raise DataError(f"its {kind} is {printable(actual)} instead of {expected}")


def _signature(values: Sequence[onnxruntime.NodeArg]) -> str:
    """Name, type and shape of each input or output; ``?`` is a dynamic side."""
    shapes = ([str(side) if isinstance(side, int) else "?" for side in value.shape] for value in values)
    return " and ".join(
        f"{value.name} {value.type} [{', '.join(shape)}]" for value, shape in zip(values, shapes, strict=True)
    )
