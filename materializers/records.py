"""Small records, stored as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from zenml.enums import VisualizationType

from graft.export.parity import OnnxCheck
from graft.promotion.gate import Comparison, Condition, Verdict
from graft.promotion.registration import Registration
from graft.reports.pages import metadata_page, plan_page, verdict_page
from graft.training.plan import TrainingPlan
from materializers.base import FolderMaterializer, canonical_json, digest


class RecordMaterializer(FolderMaterializer):
    """Stores a dataclass of JSON values."""

    SKIP_REGISTRATION = True
    TITLE = ""

    def record(self, data: Any) -> dict[str, Any]:  # noqa: ANN401
        """The fields as JSON values."""
        return asdict(data)

    def load(self, data_type: type[Any]) -> Any:  # noqa: ANN401
        """Read a record."""
        return data_type(**self.read_json("record.json"))

    def save(self, data: Any) -> None:  # noqa: ANN401
        """Write a record."""
        self.write_json("record.json", self.record(data))

    def save_visualizations(self, data: Any) -> dict[str, VisualizationType]:  # noqa: ANN401
        """Show the fields."""
        return self.show(pages={"record": metadata_page(self.TITLE, "", self.record(data))})

    def compute_content_hash(self, data: Any) -> str:  # noqa: ANN401
        """Hash the fields."""
        return digest(canonical_json(self.record(data)))


class OnnxCheckMaterializer(RecordMaterializer):
    """Stores the comparison of an exported model with torch."""

    ASSOCIATED_TYPES = (OnnxCheck,)
    TITLE = "ONNX Runtime against torch"


class RegistrationMaterializer(RecordMaterializer):
    """Stores the record of a registered model version."""

    ASSOCIATED_TYPES = (Registration,)
    TITLE = "Registered model"


class TrainingPlanMaterializer(RecordMaterializer):
    """Stores a training plan."""

    ASSOCIATED_TYPES = (TrainingPlan,)

    def record(self, data: TrainingPlan) -> dict[str, Any]:
        """The fields as JSON values."""
        return data.record()

    def load(self, data_type: type[Any]) -> TrainingPlan:  # noqa: ARG002
        """Read a plan."""
        return TrainingPlan.from_record(self.read_json("record.json"))

    def save_visualizations(self, data: TrainingPlan) -> dict[str, VisualizationType]:
        """Show the table of stages."""
        return self.show(pages={"plan": plan_page(data)})

    def extract_metadata(self, data: TrainingPlan) -> dict[str, Any]:
        """The candidates or the recipe, and the reason."""
        return {"candidates": [candidate.name for candidate in data.candidates], "reason": data.reason}


class ComparisonMaterializer(RecordMaterializer):
    """Stores the comparison of challenger and champion."""

    ASSOCIATED_TYPES = (Comparison,)
    TITLE = "Challenger and champion"


class VerdictMaterializer(RecordMaterializer):
    """Stores the gate's verdict."""

    ASSOCIATED_TYPES = (Verdict,)

    def load(self, data_type: type[Any]) -> Verdict:  # noqa: ARG002
        """Read a verdict."""
        record = self.read_json("record.json")
        return Verdict(Comparison(**record["comparison"]), [Condition(**fields) for fields in record["conditions"]])

    def save_visualizations(self, data: Verdict) -> dict[str, VisualizationType]:
        """Show every condition with its required and its actual value."""
        return self.show(pages={"verdict": verdict_page(data)})
