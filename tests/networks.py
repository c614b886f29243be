"""Networks as a training leaves them."""

from __future__ import annotations

import torch
from torch import nn


def lived_in(model: nn.Module) -> nn.Module:
    """The model, its batch norms with statistics, weights and biases of their own: new ones hardly do anything."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low in (
                (module.running_var, 0.5), (module.weight, 0.5), (module.running_mean, -0.5), (module.bias, -0.5),
            ):  # fmt: skip
                assert values is not None
                values.data.copy_(low + torch.rand(values.shape, generator=generator))
    return model
