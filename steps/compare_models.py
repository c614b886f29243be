"""Compare the registered challenger and champion on images that neither was trained on."""

from typing import Annotated

from zenml import step

from graft.config.parameters import RegistryConfig, SplitConfig
from graft.data.manifest import Manifest
from graft.data.splits import split_images
from graft.data.validation_report import ValidationReport
from graft.integrations.compare_registered import compare_registered
from graft.promotion.gate import Comparison


@step(enable_cache=False)  # the versions behind the aliases change
def compare_models(
    manifest: Manifest, report: ValidationReport, split: SplitConfig, registry: RegistryConfig
) -> Annotated[Comparison, "comparison"]:
    """Compare both on the holdout images."""
    split = split.model_copy(update={"on_leak": "exclude"})  # nothing is trained on, so there is nothing to ask
    holdout = split_images(manifest, report.clusters, split).records("holdout")
    return compare_registered(registry.name, manifest.folder(), holdout)
