"""Replacements for operations that torch and oneDNN compute very slowly in bfloat16 on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import multi_head_attention_forward
from torch.overrides import TorchFunctionMode


class FastKernels(TorchFunctionMode):
    """Replaces two operations within the ``with`` block.

    The input gradient of a strided depthwise convolution is computed in float32, because in bfloat16 it takes up to
    a hundred times as long. The gradients of weight and bias are still computed in bfloat16.

    The input of self-attention is made contiguous. Otherwise, if neither the input nor the weights require
    gradients, torch copies the weights for each position, which takes several times as long as the rest of a ViT.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: object, args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401  torch's functions return different types  # fmt: skip
        """Call ``function`` or its replacement."""
        if function is torch.conv2d and torch.is_grad_enabled() and _is_strided_depthwise(args):
            return _StridedDepthwiseConv2d.apply(*args)
        if function is multi_head_attention_forward and args[0] is args[1] is args[2]:
            args = (*[args[0].contiguous()] * 3, *args[3:])
        return function(*args, **(kwargs or {}))


def _is_strided_depthwise(args: tuple[Any, ...]) -> bool:
    """Whether these are ``nn.Conv2d``'s arguments for a strided depthwise convolution of a batch on a CPU."""
    if len(args) != 7 or not all(isinstance(argument, tuple) for argument in args[3:6]):
        return False
    inputs, weight, _, stride, _, _, groups = args
    depthwise = groups == len(weight) > 1 == weight.shape[1]
    return bool(depthwise and max(stride) > 1 and inputs.ndim == 4 and inputs.device.type == "cpu")


class _StridedDepthwiseConv2d(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)  # type: ignore[untyped-decorator]
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, *options: object) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(inputs, weight)
        ctx.options, ctx.bias_sizes = options, None if bias is None else [len(bias)]
        return torch.conv2d(inputs, weight, bias, *options)  # type: ignore[call-overload,no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        inputs, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.options
        options = ctx.bias_sizes, stride, padding, dilation, False, [0, 0], groups
        conv_backward = torch.ops.aten.convolution_backward
        needs_inputs, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_inputs = None
        if needs_inputs:
            like_inputs = torch.empty_like(inputs, dtype=torch.float32)  # only its shape and memory format are read
            mask = [True, False, False]
            grad_inputs = conv_backward(grad_output.float(), like_inputs, weight.float(), *options, mask)[0]
        mask = [False, needs_weight, needs_bias]
        _, grad_weight, grad_bias = conv_backward(grad_output, inputs, weight, *options, mask)
        return grad_inputs, grad_weight, grad_bias, None, None, None, None
