"""List and read the images."""

from typing import Annotated

from zenml import step
from zenml.logger import get_logger

from graft.config.parameters import LimitsConfig
from graft.data.manifest import Manifest, scan

logger = get_logger(__name__)


# Not cached: the files under an unchanged path may have changed. Later steps are cached by the manifest's content.
@step(enable_cache=False)
def ingest_images(root: str, limits: LimitsConfig, follow_links: bool) -> Annotated[Manifest, "manifest"]:
    """Scan the images under ``root``; only new and changed files are read."""
    manifest = scan(root, limits, follow_links)
    logger.info(manifest.reading)
    for remark in manifest.remarks:
        logger.warning(remark)
    for reason, count, examples in manifest.skipped.itertuples(index=False):
        logger.info("Skipped: %d %s (%s)", count, reason, examples)
    return manifest
