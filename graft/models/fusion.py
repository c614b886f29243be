"""Folds batch norms into the convolutions before them, for faster inference."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

from torch import nn
from torch.fx import Tracer
from torch.nn.utils.fusion import fuse_conv_bn_eval

from graft.models.stages import stage_of


def fuse_conv_bn(model: nn.Module) -> nn.Module:
    """A copy in eval mode with the same stages, and up to rounding the same outputs.

    A batch norm is folded only into a convolution of the same stage, so that the features between stages do not
    change. All other weights are shared with the model, which is not changed.
    """
    shared: dict[int, Any] = {id(value): value for value in (*model.parameters(), *model.buffers())}
    model = copy.deepcopy(model, shared).eval()
    for convolution, norm in _fusible_pairs(model):
        pair: Any = model.get_submodule(convolution), model.get_submodule(norm)
        model.set_submodule(convolution, fuse_conv_bn_eval(*pair))
        model.set_submodule(norm, nn.Identity().eval())
    return model


def _fusible_pairs(model: nn.Module) -> list[tuple[str, str]]:
    """Names of convolutions and of the batch norms that are their only consumers, each run once per forward pass."""
    modules = dict(model.named_modules())
    if not any(isinstance(module, nn.BatchNorm2d) for module in modules.values()):
        return []
    tracer = _Tracer()
    calls = [node for node in tracer.trace(model).nodes if node.op == "call_module"]
    tracer.root = nn.Module()  # a tracer is in a reference cycle, and would keep the model alive until it is collected
    runs = Counter(modules[call.target] for call in calls)
    adjacent = [
        (before.target, call.target) for call in calls for before in call.all_input_nodes
        if before in calls and len(before.users) == 1 and stage_of(before.target) == stage_of(call.target)
    ]  # fmt: skip
    return [
        (first, second) for first, second in adjacent
        if _is_fusible(modules[first], modules[second]) and runs[modules[first]] == runs[modules[second]] == 1
    ]  # fmt: skip


def _is_fusible(convolution: nn.Module, norm: nn.Module) -> bool:
    return type(convolution) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.running_var is not None


class _Tracer(Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        """Also do not trace into peft's adapters: they branch on their inputs."""
        return type(module).__module__.startswith("peft.") or super().is_leaf_module(module, name)
