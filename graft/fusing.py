"""Batch norms folded into the convolutions before them: the same network for inference, in less time."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.fx import Tracer
from torch.nn.utils.fusion import fuse_conv_bn_eval

from graft.backbones import stage_of


def fused(model: nn.Module) -> nn.Module:
    """A copy in eval mode that computes the same but for rounding, with the same stages.

    A batch norm is folded in where its convolution lies in the same stage, so that what passes from stage to stage
    does not change.
    """
    model = copy.deepcopy(model).eval()
    for convolution, norm in list(_pairs(model)):
        both: Any = model.get_submodule(convolution), model.get_submodule(norm)
        model.set_submodule(convolution, fuse_conv_bn_eval(*both))
        model.set_submodule(norm, nn.Identity())
    return model


def _pairs(model: nn.Module) -> Iterator[tuple[str, str]]:
    """The names of each convolution whose one user is a batch norm, and of that."""
    modules = dict(model.named_modules())
    if not any(isinstance(module, nn.BatchNorm2d) for module in modules.values()):
        return
    for node in _Tracer().trace(model).nodes:
        if node.op != "call_module" or not isinstance(modules[node.target], nn.BatchNorm2d):
            continue
        before = node.args[0]
        follows = before.op == "call_module" and isinstance(modules[before.target], nn.Conv2d)
        if follows and len(before.users) == 1 and stage_of(before.target) == stage_of(node.target):
            yield before.target, node.target


class _Tracer(Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        """Not to be looked into: an adapter of peft, which asks about what it is given, is one as well."""
        return type(module).__module__.startswith("peft.") or super().is_leaf_module(module, name)
