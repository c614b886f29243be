"""Validate the images before any training."""

from typing import Annotated

from zenml.logger import get_logger

from graft.config.parameters import BadImagesConfig, ValidationConfig
from graft.data.manifest import Manifest
from graft.data.validation_report import Quarantine, ValidationReport, check_blocking_errors
from graft.integrations.step_caching import cached_step

logger = get_logger(__name__)


@cached_step()
def validate_data(
    manifest: Manifest, validation: ValidationConfig, bad_images: BadImagesConfig, folds: int = 1
) -> tuple[Annotated[ValidationReport, "validation_report"], Annotated[Quarantine, "quarantine"]]:
    """Validate the images and quarantine bad ones; raises ``DataError`` if the rest cannot be trained on."""
    # Great Expectations takes seconds to import, which a cached step should not spend.
    from graft.data.validation import validate_images

    report = validate_images(manifest, validation, folds, bad_images)
    for result in [*report.failed("quarantine"), *report.failed("warning")]:
        logger.warning(result.message)
    check_blocking_errors(report)
    return report, Quarantine(report.quarantine)
