"""Check the challenger against the promotion gate."""

from typing import Annotated

import mlflow
from zenml import step

from graft.config.parameters import GateConfig, RegistryConfig
from graft.integrations.tracking import COMPLETE, STATUS, TRACKED
from graft.promotion.gate import Comparison, Verdict, apply_gate
from graft.reports.pages import verdict_page


@step(enable_cache=False, experiment_tracker=True, settings=TRACKED)
def gate_challenger(
    comparison: Comparison, gate: GateConfig, registry: RegistryConfig
) -> Annotated[Verdict, "verdict"]:
    """Check every condition and log the verdict; ``promote_challenger`` raises if one failed."""
    verdict = apply_gate(comparison, gate)
    mlflow.log_metrics(comparison.to_metrics())
    mlflow.log_params({"model": registry.name, "challenger": comparison.challenger_version, **gate.model_dump()})
    mlflow.log_text(verdict_page(verdict), "verdict.html")
    mlflow.set_tags({STATUS: COMPLETE, "graft.verdict": "passed" if verdict.passed else "refused"})
    return verdict
