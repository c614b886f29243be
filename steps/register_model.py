"""Register the exported model as the challenger."""

from typing import Annotated

from zenml import step

from graft.config.parameters import RegistryConfig
from graft.export.onnx_model import OnnxModel
from graft.export.parity import OnnxCheck
from graft.integrations.registry import register
from graft.integrations.tracking import TRACKED
from graft.promotion.registration import Registration
from graft.training.checkpoint import Checkpoint


# Not cached: the registry may have changed. An identical file is not registered again.
@step(enable_cache=False, experiment_tracker=True, settings=TRACKED)
def register_model(
    exported: OnnxModel, check: OnnxCheck, checkpoint: Checkpoint, registry: RegistryConfig
) -> Annotated[Registration, "registration"]:
    """Register the file; the input ``check`` makes this step wait for its comparison with torch."""
    assert check.images > 0
    return register(exported, registry.name, checkpoint.training_hashes)
