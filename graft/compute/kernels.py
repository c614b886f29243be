"""What torch and oneDNN take many times too long for on a CPU in bfloat16, computed in another way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import multi_head_attention_forward
from torch.overrides import TorchFunctionMode


class FastKernels(TorchFunctionMode):
    """Inside, two things are computed otherwise.

    The gradient of what goes into a strided depthwise convolution is computed in float32: in bfloat16 it takes up
    to a hundred times as long. Those of the weights are computed in bfloat16 as before.

    What goes into self-attention is laid out anew in memory: otherwise, where neither it nor the weights learn,
    torch copies the weights for each place of an image, which takes several times as long as all else of a ViT.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: object, args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401  what torch's functions give  # fmt: skip
        """Take the place of these two functions."""
        if function is torch.conv2d and torch.is_grad_enabled() and _is_slow(args):
            return _Strided.apply(*args)
        if function is multi_head_attention_forward and args[0] is args[1] is args[2]:
            args = (*[args[0].contiguous()] * 3, *args[3:])
        return function(*args, **(kwargs or {}))


def _is_slow(args: tuple[Any, ...]) -> bool:
    """Whether a strided depthwise convolution of a batch is asked for on a CPU, as ``nn.Conv2d`` does."""
    if len(args) != 7 or not all(isinstance(each, tuple) for each in args[3:6]):
        return False
    given, weight, _, stride, _, _, groups = args
    depthwise = groups == len(weight) > 1 == weight.shape[1]
    return bool(depthwise and max(stride) > 1 and given.ndim == 4 and given.device.type == "cpu")


class _Strided(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)  # type: ignore[untyped-decorator]
    def forward(ctx: Any, given: Tensor, weight: Tensor, bias: Tensor | None, *how: object) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(given, weight)
        ctx.how, ctx.bias_sizes = how, None if bias is None else [len(bias)]
        return torch.conv2d(given, weight, bias, *how)  # type: ignore[call-overload,no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        given, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.how
        how = ctx.bias_sizes, stride, padding, dilation, False, [0, 0], groups
        back = torch.ops.aten.convolution_backward
        to_given, to_weight, to_bias = ctx.needs_input_grad[:3]
        passed_on = None
        if to_given:
            shaped = torch.empty_like(given, dtype=torch.float32)  # nothing else of it is read
            passed_on = back(gradient.float(), shaped, weight.float(), *how, [True, False, False])[0]
        _, of_weight, of_bias = back(gradient, given, weight, *how, [False, to_weight, to_bias])
        return passed_on, of_weight, of_bias, None, None, None, None
