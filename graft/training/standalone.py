"""The data and model of a config without a pipeline, for ``graft plan`` and ``graft find-lr``."""

from __future__ import annotations

import logging

from graft.config.parameters import TrainingParameters
from graft.data.manifest import scan
from graft.data.splits import Split, split_images
from graft.data.validation_report import check_blocking_errors
from graft.models.model_checks import check_model_config
from graft.models.weights import FingerprintedModel, fingerprint_model
from graft.training.config_checks import check_training_config

logger = logging.getLogger(__name__)


def prepare_standalone(parameters: TrainingParameters) -> tuple[Split, FingerprintedModel]:
    """The split and the model of a config; raises the same errors as the first steps of the pipeline."""
    from graft.data.validation import validate_images  # imports Great Expectations, which takes seconds

    data = parameters.data
    check_model_config(parameters.model)
    check_training_config(parameters.model, parameters.training)
    manifest = scan(data.root, data.limits, data.follow_links)
    for remark in manifest.remarks:
        logger.warning(remark)
    report = validate_images(manifest, data.validation, parameters.cross_validation.folds, data.bad_images)
    check_blocking_errors(report)
    return split_images(manifest, report.clusters, data.split), fingerprint_model(parameters.model)
