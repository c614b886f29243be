"""Make the model the challenger."""

from typing import Annotated

from zenml import step

from graft.checkpoint import Checkpoint
from graft.config import RegistryConfig
from graft.onnx_model import OnnxCheck, OnnxModel
from graft.registration import Registration
from graft.runtime.registry import register


@step(
    enable_cache=False, experiment_tracker=True
)  # the registry may have changed; the same file is not added twice
def register_model(
    exported: OnnxModel, check: OnnxCheck, checkpoint: Checkpoint, registry: RegistryConfig
) -> Annotated[Registration, "registration"]:
    """Register the file that passed its check."""
    assert check.images > 0
    return register(exported, registry.name, checkpoint.training_hashes)
