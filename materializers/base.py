"""The base of all materializers, which store an artifact as several small files in its folder."""

from __future__ import annotations

import hashlib
import json
from io import BytesIO
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from zenml.enums import ArtifactType, VisualizationType
from zenml.materializers.base_materializer import BaseMaterializer

from graft.places import unwritable
from graft.reports.figures import as_png


class FolderMaterializer(BaseMaterializer):
    """Reads and writes files in the artifact's folder, in any artifact store."""

    ASSOCIATED_ARTIFACT_TYPE = ArtifactType.DATA
    SKIP_REGISTRATION = True

    def write_bytes(self, name: str, content: bytes) -> str:
        """Write a file; returns its URI. Raises ``StorageError`` if it cannot be written."""
        uri = f"{self.uri}/{name}"
        try:
            with self.artifact_store.open(uri, "wb") as file:
                file.write(content)
        except OSError as error:
            raise unwritable(error, uri) from error
        return uri

    def read_bytes(self, name: str) -> bytes:
        """Read a file."""
        with self.artifact_store.open(f"{self.uri}/{name}", "rb") as file:
            return bytes(file.read())

    def write_json(self, name: str, value: object) -> None:
        """Write a value as JSON."""
        self.write_bytes(name, canonical_json(value))

    def read_json(self, name: str) -> Any:  # noqa: ANN401
        """Read what ``write_json`` wrote."""
        return json.loads(self.read_bytes(name))

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        """Write a table as Parquet."""
        self.write_bytes(name, table.to_parquet(index=False))

    def read_table(self, name: str) -> pd.DataFrame:
        """Read what ``write_table`` wrote."""
        return pd.read_parquet(BytesIO(self.read_bytes(name)))

    def show(
        self, pages: dict[str, str] | None = None, figures: dict[str, Figure] | None = None
    ) -> dict[str, VisualizationType]:
        """Write HTML pages and figures as visualizations."""
        visualizations = {
            self.write_bytes(f"{name}.html", text.encode()): VisualizationType.HTML
            for name, text in (pages or {}).items()
        }
        return visualizations | {
            self.write_bytes(f"{name}.png", as_png(figure)): VisualizationType.IMAGE
            for name, figure in (figures or {}).items()
        }


def canonical_json(value: object) -> bytes:
    """A value as JSON; equal values give equal bytes."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).encode()


def digest(*parts: bytes) -> str:
    """SHA-256 of a sequence of byte strings."""
    sha256 = hashlib.sha256()
    for part in parts:
        sha256.update(len(part).to_bytes(8, "big") + part)
    return sha256.hexdigest()
