"""Tables of images, stored as Parquet."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from zenml.enums import VisualizationType

from graft.manifest import Manifest
from graft.pages import folds_page, manifest_page, split_page, validation_page
from graft.splits import Folds, Split
from graft.validation import Outcome, ValidationReport
from materializers.base import FolderMaterializer, digest


class ManifestMaterializer(FolderMaterializer):
    """Stores a manifest; its content hash leaves out where the folder lies."""

    ASSOCIATED_TYPES = (Manifest,)

    def load(self, data_type: type[Any]) -> Manifest:  # noqa: ARG002
        """Read a manifest."""
        return Manifest(self.read_table("manifest.parquet"), Path(self.read_json("root.json")))

    def save(self, data: Manifest) -> None:
        """Write a manifest."""
        self.write_table("manifest.parquet", data.table)
        self.write_json("root.json", str(data.root))

    def save_visualizations(self, data: Manifest) -> dict[str, VisualizationType]:
        """Show counts, sizes and formats."""
        return self.show(pages={"images": manifest_page(data)})

    def extract_metadata(self, data: Manifest) -> dict[str, Any]:
        """Name the number of images and classes."""
        return {"images": len(data.table), "classes": len(data.classes), "fingerprint": data.fingerprint}

    def compute_content_hash(self, data: Manifest) -> str:
        """Hash the table, all that is known of the images included; where they lie does not count."""
        return digest(data.table.to_csv(index=False).encode())


class SplitMaterializer(FolderMaterializer):
    """Stores a split."""

    ASSOCIATED_TYPES = (Split,)

    def load(self, data_type: type[Any]) -> Split:  # noqa: ARG002
        """Read a split."""
        return Split(self.read_table("split.parquet"))

    def save(self, data: Split) -> None:
        """Write a split."""
        self.write_table("split.parquet", data.table)

    def save_visualizations(self, data: Split) -> dict[str, VisualizationType]:
        """Show how classes fall into parts."""
        return self.show(pages={"split": split_page(data)})

    def compute_content_hash(self, data: Split) -> str:
        """Hash the table."""
        return digest(data.table.to_csv(index=False).encode())


class FoldsMaterializer(FolderMaterializer):
    """Stores folds."""

    ASSOCIATED_TYPES = (Folds,)

    def load(self, data_type: type[Any]) -> Folds:  # noqa: ARG002
        """Read folds."""
        return Folds(self.read_table("folds.parquet"))

    def save(self, data: Folds) -> None:
        """Write folds."""
        self.write_table("folds.parquet", data.table)

    def save_visualizations(self, data: Folds) -> dict[str, VisualizationType]:
        """Show how classes fall into folds."""
        return self.show(pages={"folds": folds_page(data)})

    def compute_content_hash(self, data: Folds) -> str:
        """Hash the table."""
        return digest(data.table.to_csv(index=False).encode())


class ValidationReportMaterializer(FolderMaterializer):
    """Stores a validation report; what the library said is kept beside it as JSON."""

    ASSOCIATED_TYPES = (ValidationReport,)

    def load(self, data_type: type[Any]) -> ValidationReport:  # noqa: ARG002
        """Read a report."""
        facts = self.read_json("report.json")
        outcomes = [Outcome(**outcome) for outcome in facts["outcomes"]]
        quarantine, raw = self.read_table("quarantine.parquet"), self.read_json("great_expectations.json")
        return ValidationReport(outcomes, quarantine, facts["images"], facts["images_per_class"], raw)

    def save(self, data: ValidationReport) -> None:
        """Write a report."""
        self.write_json("report.json", self._facts(data))
        self.write_table("quarantine.parquet", data.quarantine)
        self.write_json("great_expectations.json", data.raw)

    def save_visualizations(self, data: ValidationReport) -> dict[str, VisualizationType]:
        """Show the verdict and every check."""
        return self.show(pages={"validation": validation_page(data)})

    def compute_content_hash(self, data: ValidationReport) -> str:
        """Hash what goes on from here: which images are left out."""
        return digest("\n".join(sorted(data.quarantined)).encode())

    def _facts(self, data: ValidationReport) -> dict[str, Any]:
        outcomes = [asdict(outcome) for outcome in data.outcomes]
        return {"outcomes": outcomes, "images": data.images, "images_per_class": data.images_per_class}
