"""Networks with weights that look trained."""

from __future__ import annotations

import torch
from torch import nn


def randomize_batch_norms(model: nn.Module) -> nn.Module:
    """Set random statistics, weights and biases, in place; new batch norms hardly change their inputs."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low in (
                (module.running_var, 0.5), (module.weight, 0.5), (module.running_mean, -0.5), (module.bias, -0.5),
            ):  # fmt: skip
                assert values is not None
                values.data.copy_(low + torch.rand(values.shape, generator=generator))
    return model
