"""Make the challenger the champion."""

from zenml import step
from zenml.logger import get_logger

from graft.config.parameters import RegistryConfig
from graft.integrations.registry import promote
from graft.integrations.stack import connect_mlflow
from graft.promotion.gate import Verdict

logger = get_logger(__name__)


@step(enable_cache=False)
def promote_challenger(verdict: Verdict, registry: RegistryConfig) -> None:
    """Move the champion alias if the gate was passed; otherwise raise, listing every failed condition."""
    verdict.check_passed()
    version = verdict.comparison.challenger_version
    former = promote(connect_mlflow(), registry.name, version)
    logger.info(
        "Version %s of %s is now the champion; before, it was version %s.", version, registry.name, former or "none"
    )
