"""Tables of images, stored as Parquet."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pandas as pd
from zenml.enums import VisualizationType

from graft.data.manifest import Manifest
from graft.data.splits import Folds, Split
from graft.data.validation_report import CheckResult, Quarantine, ValidationReport
from graft.reports.pages import folds_page, manifest_page, quarantine_page, split_page
from graft.reports.validation_page import validation_page
from materializers.base import FolderMaterializer, canonical_json, digest


class ManifestMaterializer(FolderMaterializer):
    """Stores a manifest; its content hash does not depend on the folder's path."""

    ASSOCIATED_TYPES = (Manifest,)

    def load(self, data_type: type[Any]) -> Manifest:  # noqa: ARG002
        """Read a manifest."""
        table, skipped = self.read_table("manifest.parquet"), self.read_table("skipped.parquet")
        metadata = self.read_json("manifest.json")
        return Manifest(table, skipped=skipped, **metadata)

    def save(self, data: Manifest) -> None:
        """Write a manifest."""
        self.write_table("manifest.parquet", data.table)
        self.write_table("skipped.parquet", data.skipped)
        texts = {name: getattr(data, name) for name in ("root", "empty_classes", "reading", "remarks")}
        self.write_json("manifest.json", texts)

    def save_visualizations(self, data: Manifest) -> dict[str, VisualizationType]:
        """Show counts, sizes and formats."""
        return self.show(pages={"images": manifest_page(data)})

    def extract_metadata(self, data: Manifest) -> dict[str, Any]:
        """The number of images and classes, and the fingerprint."""
        return {"images": len(data.table), "classes": len(data.classes), "fingerprint": data.fingerprint}

    def compute_content_hash(self, data: Manifest) -> str:
        """Hash everything except the folder's path and the sentences about it."""
        tables = (data.table, data.skipped)
        return digest(*(table.to_csv(index=False).encode() for table in tables), canonical_json(data.empty_classes))


class PartitionMaterializer(FolderMaterializer):
    """Stores a partition of images; its content hash does not depend on the folder's path."""

    SKIP_REGISTRATION = True

    def load(self, data_type: type[Any]) -> Any:  # noqa: ANN401
        """Read the table and the root."""
        return data_type(self.read_table("table.parquet"), self.read_json("root.json"))

    def save(self, data: Any) -> None:  # noqa: ANN401
        """Write the table and the root."""
        self.write_table("table.parquet", data.table)
        self.write_json("root.json", data.root)

    def compute_content_hash(self, data: Any) -> str:  # noqa: ANN401
        """Hash the table."""
        return digest(data.table.to_csv(index=False).encode())


class SplitMaterializer(PartitionMaterializer):
    """Stores a split."""

    ASSOCIATED_TYPES = (Split,)

    def save_visualizations(self, data: Split) -> dict[str, VisualizationType]:
        """Show the number of images by class and part."""
        return self.show(pages={"split": split_page(data)})


class FoldsMaterializer(PartitionMaterializer):
    """Stores folds."""

    ASSOCIATED_TYPES = (Folds,)

    def save_visualizations(self, data: Folds) -> dict[str, VisualizationType]:
        """Show the number of images by class and fold."""
        return self.show(pages={"folds": folds_page(data)})


class QuarantineMaterializer(FolderMaterializer):
    """Stores a quarantine."""

    ASSOCIATED_TYPES = (Quarantine,)

    def load(self, data_type: type[Any]) -> Quarantine:  # noqa: ARG002
        """Read a quarantine."""
        return Quarantine(self.read_table("quarantine.parquet"))

    def save(self, data: Quarantine) -> None:
        """Write a quarantine."""
        self.write_table("quarantine.parquet", data.table)

    def compute_content_hash(self, data: Quarantine) -> str:
        """Hash the table."""
        return digest(data.table.to_csv(index=False).encode())

    def save_visualizations(self, data: Quarantine) -> dict[str, VisualizationType]:
        """Show the first images."""
        return self.show(pages={"quarantine": quarantine_page(data)})

    def extract_metadata(self, data: Quarantine) -> dict[str, Any]:
        """The number of images by reason."""
        return {"images": len(data.table), "reasons": data.table["reason"].value_counts().to_dict()}


class ValidationReportMaterializer(FolderMaterializer):
    """Stores a validation report, with Great Expectations' own result as JSON."""

    ASSOCIATED_TYPES = (ValidationReport,)

    def load(self, data_type: type[Any]) -> ValidationReport:  # noqa: ARG002
        """Read a report."""
        report = self.read_json("report.json")
        thumbnails = self.read_table("thumbnails.parquet")
        return ValidationReport(
            check_results=[CheckResult(**result) for result in report["check_results"]],
            blocking_errors=report["blocking_errors"],
            table=self.read_table("images.parquet"),
            images_per_class=report["images_per_class"],
            skipped=self.read_table("skipped.parquet"),
            thumbnails=dict(zip(thumbnails["path"], thumbnails["jpeg"], strict=True)),
            raw=self.read_json("great_expectations.json"),
            reading=report["reading"],
            remarks=report["remarks"],
        )

    def save(self, data: ValidationReport) -> None:
        """Write a report."""
        report = {
            "check_results": [asdict(result) for result in data.check_results],
            "blocking_errors": data.blocking_errors,
            "images_per_class": data.images_per_class,
            "reading": data.reading,
            "remarks": data.remarks,
        }
        self.write_json("report.json", report)
        self.write_json("great_expectations.json", data.raw)
        thumbnails = {"path": list(data.thumbnails), "jpeg": list(data.thumbnails.values())}
        self.write_table("thumbnails.parquet", pd.DataFrame(thumbnails))
        self.write_table("images.parquet", data.table)
        self.write_table("skipped.parquet", data.skipped)

    def save_visualizations(self, data: ValidationReport) -> dict[str, VisualizationType]:
        """Show the verdict, the images and every check."""
        return self.show(pages={"validation": validation_page(data)})

    def compute_content_hash(self, data: ValidationReport) -> str:
        """Hash what later steps read: which images are fit, and their clusters of near duplicates."""
        return digest(canonical_json(data.clusters))
