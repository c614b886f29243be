"""Make the model the challenger."""

from typing import Annotated

from zenml import step

from graft.checkpoint import Checkpoint
from graft.config import RegistryConfig
from graft.onnx_model import OnnxCheck, OnnxModel
from graft.registration import Registration
from graft.runtime.registry import register
from graft.runtime.tracking import TRACKED


# Not cached: the registry may have changed. The same file is not registered twice.
@step(enable_cache=False, experiment_tracker=True, settings=TRACKED)
def register_model(
    exported: OnnxModel, check: OnnxCheck, checkpoint: Checkpoint, registry: RegistryConfig
) -> Annotated[Registration, "registration"]:
    """Register the file that passed its check."""
    assert check.images > 0
    return register(exported, registry.name, checkpoint.training_hashes)
