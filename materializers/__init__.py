"""Materializers: how Graft's own types are stored and shown in ZenML's dashboard. None uses pickle."""

from materializers.arrays import CrossValidationMaterializer, FoldResultMaterializer, PredictionsMaterializer
from materializers.files import CheckpointMaterializer, OnnxModelMaterializer
from materializers.records import (
    ComparisonMaterializer,
    OnnxCheckMaterializer,
    RegistrationMaterializer,
    TrainingPlanMaterializer,
    VerdictMaterializer,
)
from materializers.tables import (
    FoldsMaterializer,
    ManifestMaterializer,
    QuarantineMaterializer,
    SplitMaterializer,
    ValidationReportMaterializer,
)

__all__ = [
    "CheckpointMaterializer",
    "ComparisonMaterializer",
    "CrossValidationMaterializer",
    "FoldResultMaterializer",
    "FoldsMaterializer",
    "ManifestMaterializer",
    "OnnxCheckMaterializer",
    "OnnxModelMaterializer",
    "PredictionsMaterializer",
    "QuarantineMaterializer",
    "RegistrationMaterializer",
    "SplitMaterializer",
    "TrainingPlanMaterializer",
    "ValidationReportMaterializer",
    "VerdictMaterializer",
]
