"""Hold the challenger against the gate."""

from typing import Annotated

from zenml import step

from graft.config import GateConfig
from graft.promotion import Comparison, Verdict, judge


@step(enable_cache=False)
def gate_challenger(comparison: Comparison, gate: GateConfig) -> Annotated[Verdict, "verdict"]:
    """Judge every condition; ``promote_challenger`` refuses where one failed."""
    return judge(comparison, gate)
