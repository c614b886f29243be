"""Predictions, folds and cross-validations: arrays as ``.npy``, everything else as JSON."""

from __future__ import annotations

from dataclasses import asdict
from io import BytesIO
from typing import Any

import numpy as np
from zenml.enums import VisualizationType

from graft.evaluation.metrics import Predictions
from graft.reports import figures
from graft.training.folds import CrossValidation, FoldResult
from graft.training.history import EpochMetrics
from materializers.base import FolderMaterializer, canonical_json, digest


class ArraysMaterializer(FolderMaterializer):
    """Reads and writes predictions by name."""

    SKIP_REGISTRATION = True

    def write_predictions(self, name: str, predictions: Predictions) -> None:
        """Write logits and labels as arrays, the other fields as JSON."""
        for part, array in (("logits", predictions.logits), ("labels", predictions.labels)):
            buffer = BytesIO()
            np.save(buffer, array, allow_pickle=False)
            self.write_bytes(f"{name}_{part}.npy", buffer.getvalue())
        self.write_json(f"{name}.json", _metadata(predictions))

    def read_predictions(self, name: str) -> Predictions:
        """Read what ``write_predictions`` wrote."""
        logits, labels = (
            np.load(BytesIO(self.read_bytes(f"{name}_{part}.npy")), allow_pickle=False) for part in ("logits", "labels")
        )
        return Predictions(labels=labels, logits=logits, **self.read_json(f"{name}.json"))


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
        warm_up, fine_tune = ([EpochMetrics(**epoch) for epoch in metadata[name]] for name in ("warm_up", "fine_tune"))
        head_only, fine_tuned = self.read_predictions("head_only"), self.read_predictions("fine_tuned")
        return FoldResult(metadata["fold"], head_only, fine_tuned, warm_up, fine_tune, metadata["failure"])

    def save(self, data: FoldResult) -> None:
        """Write a fold."""
        self.write_json("fold.json", self._metadata(data))
        self.write_predictions("head_only", data.head_only)
        self.write_predictions("fine_tuned", data.fine_tuned)

    def extract_metadata(self, data: FoldResult) -> dict[str, Any]:
        """The accuracies."""
        return {"accuracy": data.fine_tuned.accuracy, "accuracy_head_only": data.head_only.accuracy}

    def compute_content_hash(self, data: FoldResult) -> str:
        """Hash every field."""
        predictions = (predictions_hash(data.head_only) + predictions_hash(data.fine_tuned)).encode()
        return digest(canonical_json(self._metadata(data)), predictions)

    def _metadata(self, data: FoldResult) -> dict[str, Any]:
        histories = {name: [asdict(epoch) for epoch in getattr(data, name)] for name in ("warm_up", "fine_tune")}
        return {"fold": data.fold, "failure": data.failure, **histories}


class CrossValidationMaterializer(ArraysMaterializer):
    """Stores all folds."""

    ASSOCIATED_TYPES = (CrossValidation,)

    def load(self, data_type: type[Any]) -> CrossValidation:  # noqa: ARG002
        """Read the folds."""
        return CrossValidation(**self.read_json("folds.json"), out_of_fold=self.read_predictions("out_of_fold"))

    def save(self, data: CrossValidation) -> None:
        """Write the folds."""
        self.write_json("folds.json", self._metadata(data))
        self.write_predictions("out_of_fold", data.out_of_fold)

    def save_visualizations(self, data: CrossValidation) -> dict[str, VisualizationType]:
        """Show the accuracy of each fold, the confusion matrix and the reliability diagram."""
        return self.show(
            figures={
                "folds": figures.folds(data),
                "confusion": figures.confusion(data.out_of_fold),
                "reliability": figures.reliability(data.out_of_fold),
            }
        )

    def extract_metadata(self, data: CrossValidation) -> dict[str, Any]:
        """The headline metrics."""
        return {name.removeprefix("cv/"): value for name, value in data.to_metrics().items()}

    def compute_content_hash(self, data: CrossValidation) -> str:
        """Hash every field."""
        return digest(canonical_json(self._metadata(data)), predictions_hash(data.out_of_fold).encode())

    def _metadata(self, data: CrossValidation) -> dict[str, Any]:
        return {name: value for name, value in vars(data).items() if name != "out_of_fold"}


def predictions_hash(predictions: Predictions) -> str:
    """SHA-256 of predictions."""
    metadata = canonical_json(_metadata(predictions))
    return digest(metadata, predictions.labels.tobytes(), predictions.logits.tobytes())


def _metadata(predictions: Predictions) -> dict[str, Any]:
    return {"paths": predictions.paths, "classes": predictions.classes, "temperature": predictions.temperature}
