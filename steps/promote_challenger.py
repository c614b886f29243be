"""Make the challenger champion."""

from zenml import step
from zenml.logger import get_logger

from graft.config import RegistryConfig
from graft.promotion import Verdict
from graft.runtime.registry import promote
from graft.runtime.stack import connect_mlflow

logger = get_logger(__name__)


@step(enable_cache=False)
def promote_challenger(verdict: Verdict, registry: RegistryConfig) -> None:
    """Move the alias where the gate was passed; refuse with every failed condition where not."""
    verdict.require_passed()
    version = verdict.comparison.challenger_version
    former = promote(connect_mlflow(), registry.name, version)
    logger.info("Version %s of %s is champion; before it was %s.", version, registry.name, former or "none")
