"""Split the images into holdout and training, and the training images into folds."""

from typing import Annotated

from zenml.logger import get_logger

from graft.config.parameters import SplitConfig
from graft.data.manifest import Manifest
from graft.data.splits import Folds, Split, describe_excluded, make_folds, split_images
from graft.data.validation_report import ValidationReport
from graft.errors import printable
from graft.integrations.step_caching import cached_step

logger = get_logger(__name__)


@cached_step()
def split_data(
    manifest: Manifest, report: ValidationReport, split: SplitConfig, folds: int, seed: int
) -> tuple[Annotated[Split, "split"], Annotated[Folds, "folds"]]:
    """Split by content and group, and divide all images but the holdout into folds."""
    parts = split_images(manifest, report.clusters, split)
    if len(parts.records("excluded")):
        logger.warning(
            "%s, and left out of training; data.split.on_leak: keep would train on them.", describe_excluded(parts)
        )
    if parts.classes_without_holdout:
        logger.warning(
            "The holdout has no image of %s, so its accuracy does not cover them.",
            ", ".join(map(printable, parts.classes_without_holdout)),
        )
    return parts, make_folds(parts, folds, seed)
