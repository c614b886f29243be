"""Hold the challenger against the gate."""

from typing import Annotated

import mlflow
from zenml import step

from graft.config import GateConfig, RegistryConfig
from graft.promotion import Comparison, Verdict, judge
from graft.reports.pages import verdict_page
from graft.runtime.tracking import COMPLETE, STATUS, TRACKED


@step(enable_cache=False, experiment_tracker=True, settings=TRACKED)
def gate_challenger(
    comparison: Comparison, gate: GateConfig, registry: RegistryConfig
) -> Annotated[Verdict, "verdict"]:
    """Judge every condition and leave the verdict in MLflow; ``promote_challenger`` refuses where one failed."""
    verdict = judge(comparison, gate)
    mlflow.log_metrics(comparison.named())
    mlflow.log_params({"model": registry.name, "challenger": comparison.challenger_version, **gate.model_dump()})
    mlflow.log_text(verdict_page(verdict), "verdict.html")
    mlflow.set_tags({STATUS: COMPLETE, "graft.verdict": "passed" if verdict.passed else "refused"})
    return verdict
