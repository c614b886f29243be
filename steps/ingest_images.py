"""Read every image once."""

from typing import Annotated

from zenml import step

from graft.manifest import Manifest, scan


@step(enable_cache=False)  # a path hides what has changed behind it; the manifest's content hash does not
def ingest_images(root: str) -> Annotated[Manifest, "manifest"]:
    """List and decode the images under ``root``."""
    return scan(root)
