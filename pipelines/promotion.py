"""The promotion pipeline: make the challenger the champion if it passes the gate.

zenml pipeline run pipelines.promotion.promotion_pipeline -c configs/promotion.yaml
"""

from graft.config.parameters import DataConfig, GateConfig, PromotionParameters, RegistryConfig
from graft.integrations.strict_pipeline import strict_pipeline
from steps.compare_models import compare_models
from steps.gate_challenger import gate_challenger
from steps.ingest_images import ingest_images
from steps.promote_challenger import promote_challenger
from steps.validate_data import validate_data


@strict_pipeline(PromotionParameters)
def promotion_pipeline(data: DataConfig, registry: RegistryConfig, gate: GateConfig) -> None:
    """Compare challenger and champion on images that neither was trained on, apply the gate, promote."""
    manifest = ingest_images(data.root, data.limits, data.follow_links)
    report, _ = validate_data(manifest, data.validation, data.bad_images)
    comparison = compare_models(manifest, report, data.split, registry)
    verdict = gate_challenger(comparison, gate, registry)
    promote_challenger(verdict, registry)
