"""Read every image once."""

from typing import Annotated

from zenml import step

from graft.config import LimitsConfig
from graft.manifest import Manifest, scan


# Not cached: a path hides what has changed behind it. The manifest's content hash does not.
@step(enable_cache=False)
def ingest_images(root: str, limits: LimitsConfig) -> Annotated[Manifest, "manifest"]:
    """List and decode the images under ``root``."""
    return scan(root, limits)
