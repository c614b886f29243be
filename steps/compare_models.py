"""Challenger and champion, as registered, on images that neither was trained on."""

from typing import Annotated

from zenml import step

from graft.config import RegistryConfig, SplitConfig
from graft.data.manifest import Manifest
from graft.data.splits import split_images
from graft.data.validation_report import ValidationReport
from graft.promotion import Comparison
from graft.runtime.contest import hold_contest


@step(enable_cache=False)  # aliases move behind their names
def compare_models(
    manifest: Manifest, report: ValidationReport, split: SplitConfig, registry: RegistryConfig
) -> Annotated[Comparison, "comparison"]:
    """Compare both on the held-out images."""
    holdout = split_images(manifest, report.clusters, split).rows("holdout")
    return hold_contest(registry.name, manifest.folder(), holdout)
