"""Find what is wrong with the images before it costs anything."""

from typing import Annotated

from zenml.logger import get_logger

from graft.config import BadImagesConfig, ValidationConfig
from graft.data.manifest import Manifest
from graft.data.validation_report import Quarantine, ValidationReport, require_fit
from graft.runtime.caching import cached_step

logger = get_logger(__name__)


@cached_step()
def validate_data(
    manifest: Manifest, validation: ValidationConfig, bad_images: BadImagesConfig, folds: int = 1
) -> tuple[Annotated[ValidationReport, "validation_report"], Annotated[Quarantine, "quarantine"]]:
    """Judge the images; stop with a sentence for each reason not to train on them."""
    from graft.data.validation import validate  # Great Expectations takes seconds to import: not for a cached step

    report = validate(manifest, validation, folds, bad_images)
    for outcome in [*report.failed("quarantine"), *report.failed("warning")]:
        logger.warning(outcome.sentence)
    require_fit(report)
    return report, Quarantine(report.quarantine)
