"""Read every image once."""

from typing import Annotated

from zenml import step
from zenml.logger import get_logger

from graft.config import LimitsConfig
from graft.data.manifest import Manifest, scan

logger = get_logger(__name__)


# Not cached: a path hides what has changed behind it. The manifest's content hash does not.
@step(enable_cache=False)
def ingest_images(root: str, limits: LimitsConfig) -> Annotated[Manifest, "manifest"]:
    """List and decode the images under ``root``."""
    manifest = scan(root, limits)
    for reason, count, examples in manifest.ignored.itertuples(index=False):
        logger.info("Passed over: %d %s (%s)", count, reason, examples)
    return manifest
