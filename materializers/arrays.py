"""Predictions, folds and cross-validations: arrays as ``.npy``, everything else as JSON."""

from __future__ import annotations

from dataclasses import asdict
from io import BytesIO
from typing import Any, get_type_hints

import numpy as np
from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python
from zenml.enums import VisualizationType

from graft.evaluation.metrics import Predictions
from graft.reports import figures, training_figures
from graft.training.cross_validation import CrossValidation
from graft.training.folds import CandidateResult, FoldResult
from graft.training.history import EpochMetrics
from materializers.base import FolderMaterializer, canonical_json, digest


class ArraysMaterializer(FolderMaterializer):
    """Reads and writes predictions by name."""

    SKIP_REGISTRATION = True

    def write_predictions(self, name: str, predictions: Predictions) -> None:
        """Write logits and labels as arrays, the other fields as JSON."""
        self.write_array(f"{name}_logits.npy", predictions.logits)
        self.write_array(f"{name}_labels.npy", predictions.labels)
        self.write_json(f"{name}.json", _metadata(predictions))

    def read_predictions(self, name: str) -> Predictions:
        """Read what ``write_predictions`` wrote."""
        logits, labels = self.read_array(f"{name}_logits.npy"), self.read_array(f"{name}_labels.npy")
        return Predictions(labels=labels, logits=logits, **self.read_json(f"{name}.json"))

    def write_array(self, name: str, array: np.ndarray) -> None:
        """Write an array as ``.npy``."""
        buffer = BytesIO()
        np.save(buffer, array, allow_pickle=False)
        self.write_bytes(name, buffer.getvalue())

    def read_array(self, name: str) -> np.ndarray:
        """Read what ``write_array`` wrote."""
        array: np.ndarray = np.load(BytesIO(self.read_bytes(name)), allow_pickle=False)
        return array


class PredictionsMaterializer(ArraysMaterializer):
    """Stores predictions."""

    ASSOCIATED_TYPES = (Predictions,)

    def load(self, data_type: type[Any]) -> Predictions:  # noqa: ARG002
        """Read predictions."""
        return self.read_predictions("predictions")

    def save(self, data: Predictions) -> None:
        """Write predictions."""
        self.write_predictions("predictions", data)

    def save_visualizations(self, data: Predictions) -> dict[str, VisualizationType]:
        """Show the confusion matrix and the reliability diagram."""
        return self.show(figures={"confusion": figures.confusion(data), "reliability": figures.reliability(data)})

    def extract_metadata(self, data: Predictions) -> dict[str, Any]:
        """The headline metrics."""
        return {"accuracy": data.accuracy, "macro_f1": data.macro_f1, "ece": data.ece}

    def compute_content_hash(self, data: Predictions) -> str:
        """Hash every field."""
        return predictions_hash(data)


class FoldResultMaterializer(ArraysMaterializer):
    """Stores one fold. MLflow shows its curves, the cross-validation its confusion matrix."""

    ASSOCIATED_TYPES = (FoldResult,)

    def load(self, data_type: type[Any]) -> FoldResult:  # noqa: ARG002
        """Read a fold."""
        metadata = self.read_json("fold.json")
        candidates = [self._read_candidate(number, fields) for number, fields in enumerate(metadata.pop("candidates"))]
        return FoldResult(labels=self.read_array("labels.npy"), candidates=candidates, **metadata)

    def save(self, data: FoldResult) -> None:
        """Write a fold: the logits of each candidate and number of epochs as arrays, the rest as JSON."""
        self.write_json("fold.json", self._metadata(data))
        for name, array in self._arrays(data).items():
            self.write_array(name, array)

    def extract_metadata(self, data: FoldResult) -> dict[str, Any]:
        """The metrics, as in MLflow."""
        return {name.removeprefix("fold/"): value for name, value in data.to_metrics().items()}

    def compute_content_hash(self, data: FoldResult) -> str:
        """Hash everything but the seconds, which differ between runs."""
        return digest(
            _without_seconds(self._metadata(data)), *(array.tobytes() for array in self._arrays(data).values())
        )

    def _read_candidate(self, number: int, fields: dict[str, Any]) -> CandidateResult:
        logits = {epochs: self.read_array(f"logits_{number}_{epochs}.npy") for epochs in fields.pop("epochs")}
        history = [EpochMetrics(**epoch) for epoch in fields.pop("history")]
        return CandidateResult(logits=logits, history=history, **fields)

    def _arrays(self, data: FoldResult) -> dict[str, np.ndarray]:
        logits = {
            f"logits_{number}_{epochs}.npy": array
            for number, candidate in enumerate(data.candidates)
            for epochs, array in candidate.logits.items()
        }
        return {"labels.npy": data.labels, **logits}

    def _metadata(self, data: FoldResult) -> dict[str, Any]:
        candidates = [
            {
                "name": candidate.name, "seconds": candidate.seconds, "failure": candidate.failure,
                "epochs": sorted(candidate.logits), "history": [asdict(epoch) for epoch in candidate.history],
            }
            for candidate in data.candidates
        ]  # fmt: skip
        return {"fold": data.fold, "paths": data.paths, "classes": data.classes, "candidates": candidates}


class CrossValidationMaterializer(ArraysMaterializer):
    """Stores the cross-validation."""

    ASSOCIATED_TYPES = (CrossValidation,)

    def load(self, data_type: type[Any]) -> CrossValidation:  # noqa: ARG002
        """Read the cross-validation."""
        fields = self.read_json("cross_validation.json")
        types = get_type_hints(CrossValidation)
        values = {name: TypeAdapter(types[name]).validate_python(value) for name, value in fields.items()}
        return CrossValidation(**values, out_of_fold=self.read_predictions("out_of_fold"))

    def save(self, data: CrossValidation) -> None:
        """Write the cross-validation."""
        self.write_json("cross_validation.json", self._metadata(data))
        self.write_predictions("out_of_fold", data.out_of_fold)

    def save_visualizations(self, data: CrossValidation) -> dict[str, VisualizationType]:
        """Show the candidates, the accuracy of each fold, the confusion matrix and the reliability diagram."""
        return self.show(
            figures={
                "candidates": training_figures.candidates(data),
                "folds": training_figures.folds(data),
                "confusion": figures.confusion(data.out_of_fold),
                "reliability": figures.reliability(data.out_of_fold),
            }
        )

    def extract_metadata(self, data: CrossValidation) -> dict[str, Any]:
        """The headline metrics."""
        return {name.removeprefix("cv/"): value for name, value in data.to_metrics().items()}

    def compute_content_hash(self, data: CrossValidation) -> str:
        """Hash everything but the seconds, which differ between runs."""
        return digest(_without_seconds(self._metadata(data)), predictions_hash(data.out_of_fold).encode())

    def _metadata(self, data: CrossValidation) -> dict[str, Any]:
        fields = {name: value for name, value in vars(data).items() if name != "out_of_fold"}
        metadata: dict[str, Any] = to_jsonable_python(fields)
        return metadata


def predictions_hash(predictions: Predictions) -> str:
    """SHA-256 of predictions."""
    metadata = canonical_json(_metadata(predictions))
    return digest(metadata, predictions.labels.tobytes(), predictions.logits.tobytes())


def _without_seconds(metadata: dict[str, Any]) -> bytes:
    """Metadata with candidates as JSON, without their seconds, which differ between runs."""
    candidates = [{name: value for name, value in each.items() if name != "seconds"} for each in metadata["candidates"]]
    return canonical_json(metadata | {"candidates": candidates})


def _metadata(predictions: Predictions) -> dict[str, Any]:
    return {"paths": predictions.paths, "classes": predictions.classes, "temperature": predictions.temperature}
