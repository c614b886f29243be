"""Decide what each image is for."""

from typing import Annotated

from zenml.logger import get_logger

from graft.config import SplitConfig
from graft.data.manifest import Manifest
from graft.data.splits import Folds, Split, cut_folds, split_images
from graft.data.validation_report import ValidationReport
from graft.errors import shown
from graft.runtime.caching import cached_step

logger = get_logger(__name__)


@cached_step()
def split_data(
    manifest: Manifest, report: ValidationReport, split: SplitConfig, folds: int, seed: int
) -> tuple[Annotated[Split, "split"], Annotated[Folds, "folds"]]:
    """Set the holdout aside by content, and cut what is left into folds."""
    parts = split_images(manifest, report.clusters, split)
    if excluded := list(parts.rows("excluded")["path"]):
        examples = ", ".join(map(shown, excluded[:3]))
        logger.warning(
            "%d images, such as %s, are left out of training, since near duplicates or members of their group are "
            "held out; data.split.on_leak: keep would train on them.", len(excluded), examples,
        )  # fmt: skip
    if parts.unjudged:
        logger.warning("No image of %s is held out, so nothing judges it there.", ", ".join(parts.unjudged))
    return parts, cut_folds(parts, folds, seed)
