"""Predictions and what is made of them: arrays as ``.npy``, the rest as JSON."""

from __future__ import annotations

from dataclasses import asdict
from io import BytesIO
from typing import Any

import numpy as np
from zenml.enums import VisualizationType

from graft.cross_validation import CrossValidation, FoldResult
from graft.learning.history import EpochMetrics
from graft.learning.metrics import Predictions
from graft.reports import figures
from materializers.base import FolderMaterializer, canonical, digest


class ArraysMaterializer(FolderMaterializer):
    """Reads and writes predictions under a name."""

    SKIP_REGISTRATION = True

    def write_predictions(self, name: str, said: Predictions) -> None:
        """Write logits and labels as arrays, the names as JSON."""
        for part, array in (("logits", said.logits), ("labels", said.labels)):
            buffer = BytesIO()
            np.save(buffer, array, allow_pickle=False)
            self.write_bytes(f"{name}_{part}.npy", buffer.getvalue())
        self.write_json(f"{name}.json", _facts(said))

    def read_predictions(self, name: str) -> Predictions:
        """Read what ``write_predictions`` wrote."""
        logits, labels = (
            np.load(BytesIO(self.read_bytes(f"{name}_{part}.npy")), allow_pickle=False)
            for part in ("logits", "labels")
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
        """Show what is mistaken for what, and how sure the model is."""
        return self.show(figures={"confusion": figures.confusion(data), "reliability": figures.reliability(data)})

    def extract_metadata(self, data: Predictions) -> dict[str, Any]:
        """Name the headline metrics."""
        return {"accuracy": data.accuracy, "macro_f1": data.macro_f1, "ece": data.ece}

    def compute_content_hash(self, data: Predictions) -> str:
        """Hash all of it."""
        return hash_of(data)


class FoldResultMaterializer(ArraysMaterializer):
    """Stores one fold; MLflow shows its curves, and the artifact of all folds what is mistaken for what."""

    ASSOCIATED_TYPES = (FoldResult,)

    def load(self, data_type: type[Any]) -> FoldResult:  # noqa: ARG002
        """Read a fold."""
        facts = self.read_json("fold.json")
        warm_up, fine_tune = ([EpochMetrics(**one) for one in facts[name]] for name in ("warm_up", "fine_tune"))
        said = (self.read_predictions("head_only"), self.read_predictions("fine_tuned"))
        return FoldResult(facts["fold"], *said, warm_up, fine_tune)

    def save(self, data: FoldResult) -> None:
        """Write a fold."""
        self.write_json("fold.json", self._facts(data))
        self.write_predictions("head_only", data.head_only)
        self.write_predictions("fine_tuned", data.fine_tuned)

    def extract_metadata(self, data: FoldResult) -> dict[str, Any]:
        """Name the accuracies."""
        return {"accuracy": data.fine_tuned.accuracy, "accuracy_head_only": data.head_only.accuracy}

    def compute_content_hash(self, data: FoldResult) -> str:
        """Hash all of it."""
        said = (hash_of(data.head_only) + hash_of(data.fine_tuned)).encode()
        return digest(canonical(self._facts(data)), said)

    def _facts(self, data: FoldResult) -> dict[str, Any]:
        histories = {name: [asdict(epoch) for epoch in getattr(data, name)] for name in ("warm_up", "fine_tune")}
        return {"fold": data.fold, **histories}


class CrossValidationMaterializer(ArraysMaterializer):
    """Stores all folds."""

    ASSOCIATED_TYPES = (CrossValidation,)

    def load(self, data_type: type[Any]) -> CrossValidation:  # noqa: ARG002
        """Read the folds."""
        return CrossValidation(**self.read_json("folds.json"), out_of_fold=self.read_predictions("out_of_fold"))

    def save(self, data: CrossValidation) -> None:
        """Write the folds."""
        self.write_json("folds.json", self._facts(data))
        self.write_predictions("out_of_fold", data.out_of_fold)

    def save_visualizations(self, data: CrossValidation) -> dict[str, VisualizationType]:
        """Show accuracies by fold, calibration, and what is mistaken for what."""
        said = data.out_of_fold
        shown = {"folds": figures.folds(data), "confusion": figures.confusion(said)}
        return self.show(figures=shown | {"reliability": figures.reliability(said)})

    def extract_metadata(self, data: CrossValidation) -> dict[str, Any]:
        """Name the headline metrics."""
        return {name.removeprefix("cv/"): value for name, value in data.named().items()}

    def compute_content_hash(self, data: CrossValidation) -> str:
        """Hash all of it."""
        return digest(canonical(self._facts(data)), hash_of(data.out_of_fold).encode())

    def _facts(self, data: CrossValidation) -> dict[str, Any]:
        return {name: value for name, value in vars(data).items() if name != "out_of_fold"}


def hash_of(said: Predictions) -> str:
    """SHA-256 of predictions."""
    return digest(canonical(_facts(said)), said.labels.tobytes(), said.logits.tobytes())


def _facts(said: Predictions) -> dict[str, Any]:
    return {"paths": said.paths, "classes": said.classes, "temperature": said.temperature}
