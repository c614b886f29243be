"""Find what is wrong with the images before it costs anything."""

from typing import Annotated

from zenml.logger import get_logger

from graft.config import ValidationConfig
from graft.manifest import Manifest
from graft.runtime.caching import cached_step
from graft.validation import ValidationReport, require_fit, validate

logger = get_logger(__name__)


@cached_step()
def validate_data(
    manifest: Manifest, validation: ValidationConfig
) -> Annotated[ValidationReport, "validation_report"]:
    """Judge the images; stop with a sentence where they are not fit to train on."""
    report = validate(manifest, validation)
    require_fit(report, validation)
    for outcome in [*report.failed("quarantine"), *report.failed("warning")]:
        logger.warning("Not every image %s: %s", outcome.asks, outcome.found)
    return report
