"""Batch norms folded into the convolutions before them: the same network for inference, in less time."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

from torch import nn
from torch.fx import Tracer
from torch.nn.utils.fusion import fuse_conv_bn_eval

from graft.networks.backbones import stage_of


def fused(model: nn.Module) -> nn.Module:
    """A copy in eval mode that computes the same but for rounding, with the same stages.

    A batch norm is folded in where its convolution lies in the same stage, so that what passes from stage to stage
    does not change. All other weights are shared with the model, which stays as it is.
    """
    shared: dict[int, Any] = {id(value): value for value in (*model.parameters(), *model.buffers())}
    model = copy.deepcopy(model, shared).eval()
    for convolution, norm in _pairs(model):
        both: Any = model.get_submodule(convolution), model.get_submodule(norm)
        model.set_submodule(convolution, fuse_conv_bn_eval(*both))
        model.set_submodule(norm, nn.Identity().eval())
    return model


def _pairs(model: nn.Module) -> list[tuple[str, str]]:
    """The names of each convolution that runs once, for a batch norm that runs once, and of that."""
    modules = dict(model.named_modules())
    if not any(isinstance(module, nn.BatchNorm2d) for module in modules.values()):
        return []
    tracer = _Tracer()
    calls = [node for node in tracer.trace(model).nodes if node.op == "call_module"]
    tracer.root = nn.Module()  # a tracer is garbage that only the collector finds, and would hold the model
    times = Counter(modules[call.target] for call in calls)
    neighbours = [
        (before.target, call.target) for call in calls for before in call.all_input_nodes
        if before in calls and len(before.users) == 1 and stage_of(before.target) == stage_of(call.target)
    ]  # fmt: skip
    return [
        (first, second) for first, second in neighbours
        if _fit(modules[first], modules[second]) and times[modules[first]] == times[modules[second]] == 1
    ]  # fmt: skip


def _fit(before: nn.Module, norm: nn.Module) -> bool:
    return type(before) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.running_var is not None


class _Tracer(Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        """Not to be looked into: an adapter of peft, which asks about what it is given, is one as well."""
        return type(module).__module__.startswith("peft.") or super().is_leaf_module(module, name)
