"""What a backbone hands to its head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graft.backbones import head_name


@torch.no_grad()
def head_inputs(model: nn.Module, images: Tensor) -> Tensor:
    """The features ``[batch, features]`` of normalised images ``[batch, 3, height, width]``, averaged over places.

    The model runs in eval mode, and is put back into the modes that it was in.
    """
    caught: list[Tensor] = []
    handle = getattr(model, head_name(model)).register_forward_pre_hook(lambda _, given: caught.append(given[0]))
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()(images)
    finally:
        handle.remove()
        for module, training in modes.items():
            module.training = training
    return caught[0].flatten(2).mean(dim=2) if caught[0].ndim > 2 else caught[0]
