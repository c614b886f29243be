"""Checkpoints, as safetensors and JSON, and exported models, as one ONNX file."""

from __future__ import annotations

from typing import Any

from zenml.enums import ArtifactType, VisualizationType

from graft.export.onnx_model import OnnxModel
from graft.reports import training_figures
from graft.reports.pages import metadata_page
from graft.training.checkpoint import Checkpoint
from materializers.base import FolderMaterializer

MODEL_FILE = "model.onnx"


class CheckpointMaterializer(FolderMaterializer):
    """Stores a checkpoint."""

    ASSOCIATED_TYPES = (Checkpoint,)
    ASSOCIATED_ARTIFACT_TYPE = ArtifactType.MODEL

    def load(self, data_type: type[Any]) -> Checkpoint:  # noqa: ARG002
        """Read a checkpoint."""
        return Checkpoint.from_files(self.read_bytes)

    def save(self, data: Checkpoint) -> None:
        """Write a checkpoint."""
        for name, content in data.files().items():
            self.write_bytes(name, content)

    def save_visualizations(self, data: Checkpoint) -> dict[str, VisualizationType]:
        """Show the learning curves of the phase."""
        return self.show(figures={"curves": training_figures.learning_curves(data.history, [])})

    def extract_metadata(self, data: Checkpoint) -> dict[str, Any]:
        """Architecture, phase, and its number of epochs."""
        return {"architecture": data.architecture, "phase": data.phase, "epochs": len(data.history)}

    def compute_content_hash(self, data: Checkpoint) -> str:
        """Hash weights and metadata."""
        return data.fingerprint


class OnnxModelMaterializer(FolderMaterializer):
    """Stores an exported model."""

    ASSOCIATED_TYPES = (OnnxModel,)
    ASSOCIATED_ARTIFACT_TYPE = ArtifactType.MODEL

    def load(self, data_type: type[Any]) -> OnnxModel:  # noqa: ARG002
        """Read a model."""
        return OnnxModel(self.read_bytes(MODEL_FILE))

    def save(self, data: OnnxModel) -> None:
        """Write a model."""
        self.write_bytes(MODEL_FILE, data.content)

    def save_visualizations(self, data: OnnxModel) -> dict[str, VisualizationType]:
        """Show the file's metadata."""
        verdict = f"{len(data.content) / 1e6:.1f} MB, one file"
        return self.show(pages={"model": metadata_page("Exported model", verdict, data.metadata)})

    def extract_metadata(self, data: OnnxModel) -> dict[str, Any]:
        """Hash and size of the file."""
        return {"sha256": data.sha256, "size_bytes": len(data.content)}

    def compute_content_hash(self, data: OnnxModel) -> str:
        """Hash the file."""
        return data.sha256
