"""Fused batch norms, model tails and fast kernels compute the same as the plain model."""

from __future__ import annotations

import gc
import weakref
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from networks import randomize_batch_norms
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models import get_model

from graft.compute.devices import Compute
from graft.compute.kernels import FastKernels
from graft.config.training import ComputeConfig
from graft.features.model_tail import ModelTail, intermediate_features
from graft.models.fusion import fuse_conv_bn

BFLOAT16 = Compute.from_config(ComputeConfig(device="cpu", precision="bfloat16"))


@pytest.mark.parametrize(
    ("architecture", "remaining"),
    [("mobilenet_v3_small", 0), ("resnet18", 1), ("densenet121", 63), ("shufflenet_v2_x0_5", 0), ("vgg11_bn", 8)],
)
def test_fused_model_computes_the_same_with_fewer_batch_norms(architecture: str, remaining: int) -> None:
    torch.manual_seed(0)
    model = randomize_batch_norms(get_model(architecture, weights=None)).eval()
    images = torch.rand(2, 3, 64, 64)
    fused = fuse_conv_bn(model)
    with torch.inference_mode():
        assert torch.allclose(fused(images), model(images), rtol=1e-4, atol=1e-5)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in fused.modules()) == remaining


def test_fused_model_is_freed_without_garbage_collection() -> None:
    model = get_model("resnet18", weights=None)
    gc.collect()
    gc.disable()
    try:
        reference = weakref.ref(fuse_conv_bn(model))
        assert reference() is None
    finally:
        gc.enable()


def test_fuse_conv_bn_skips_a_convolution_that_runs_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer1 = nn.ModuleList([nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)])

        def forward(self, images: Tensor) -> Tensor:
            convolution, norm = self.layer1
            outputs: Tensor = norm(convolution(convolution(images)))
            return outputs

    model, images = randomize_batch_norms(Twice()).eval(), torch.rand(2, 3, 4, 4)
    assert torch.equal(fuse_conv_bn(model)(images), model(images))


def test_fuse_conv_bn_changes_neither_the_model_nor_features_between_stages() -> None:
    torch.manual_seed(0)
    model = randomize_batch_norms(get_model("resnet18", weights=None)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images, names = torch.rand(2, 3, 64, 64), ["bn1", "layer1", "layer3"]
    fused = fuse_conv_bn(model)
    features = intermediate_features(fused, images, names)
    assert model.training
    assert fused.get_submodule("fc").weight is model.get_submodule("fc").weight
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for name, value in intermediate_features(model, images, names).items():
        assert torch.allclose(features[name], value, rtol=1e-4, atol=1e-5), name


@torch.no_grad()
def test_model_tail_computes_output_shapes_once_for_an_architecture() -> None:
    seeds_run = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = get_model("resnet18", weights=None).eval()
        model.image_size = 96  # used by no other test
        model.layer1.register_forward_hook(lambda *_, seed=seed: seeds_run.append(seed))
        tail, images = ModelTail(model, "layer3"), torch.rand(2, 3, 96, 96)
        assert seeds_run.count(seed) == (1 if seed == 0 else 0)
        features = intermediate_features(model, images, ["layer3"])["layer3"]
        assert torch.allclose(tail(features), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_fast_kernels_compute_gradients_of_strided_depthwise_convolution_in_bfloat16(bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8, bias=bias).to(memory_format=torch.channels_last)
    images = torch.rand(2, 8, 9, 9)

    def gradients() -> list[Tensor]:
        inputs = images.clone().requires_grad_()
        layer.zero_grad()
        with BFLOAT16.autocast():
            outputs = layer(inputs)
        assert outputs.dtype is torch.bfloat16
        outputs.float().square().sum().backward()
        return [value.grad for value in (inputs, *layer.parameters()) if value.grad is not None]

    fast, calls = gradients(), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("graft.compute.kernels._is_strided_depthwise", lambda *_: calls.append(1))
        expected = gradients()
    assert calls
    assert len(fast) == (3 if bias else 2)
    for gradient, expected_gradient in zip(fast, expected, strict=True):
        assert gradient.dtype is torch.float32
        assert torch.allclose(gradient, expected_gradient, rtol=0.02, atol=0.02 * float(expected_gradient.abs().max()))


def test_fast_kernels_replace_only_strided_depthwise_convolutions() -> None:
    images = torch.rand(1, 8, 9, 9, requires_grad=True)
    names = []
    with FastKernels():
        for layer in (
            nn.Conv2d(8, 8, 3, stride=2, groups=8), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 3, stride=2),
            nn.Conv2d(8, 8, 3, stride=2, groups=4), nn.Conv2d(8, 8, 3, stride=2, padding="valid", groups=8),
        ):  # fmt: skip
            outputs = layer(images)
            outputs.sum().backward()
            names.append(outputs.grad_fn.name())
        assert nn.Conv2d(8, 8, 3, stride=2, groups=8)(images[0]).grad_fn.name() == "SqueezeBackward1"
        with torch.no_grad():
            assert nn.Conv2d(8, 8, 3, stride=2, groups=8)(images).grad_fn is None
    assert [name.startswith("_StridedDepthwiseConv2d") for name in names] == [True, False, False, False, False]


class BatchedMatmuls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the shapes of the second factors of batched matrix products."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes: list[torch.Size] = []

    def __torch_dispatch__(
        self, function: Any, types: object, args: tuple[Any, ...] = (), kwargs: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401  # fmt: skip
        if function is torch.ops.aten.bmm.default:
            self.shapes.append(args[1].shape)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("fast", [False, True])
def test_fast_kernels_do_not_copy_weights_of_frozen_self_attention_for_each_position(fast: bool) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True).requires_grad_(False)
    inputs, positions = torch.rand(4, 5, 8), 5
    expected, _ = attention(inputs, inputs, inputs, need_weights=False)
    with BatchedMatmuls() as matmuls, torch.autocast("cpu", torch.bfloat16), FastKernels() if fast else nullcontext():
        outputs, _ = attention(inputs, inputs, inputs, need_weights=False)
    assert (torch.Size([positions, 8, 3 * 8]) in matmuls.shapes) is not fast
    assert torch.allclose(outputs.float(), expected, atol=0.02)


def test_fast_kernels_do_not_change_cross_attention() -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    query, keys = torch.rand(4, 5, 8), torch.rand(4, 3, 8)
    expected, _ = attention(query, keys, keys)
    with FastKernels():
        outputs, _ = attention(query, keys, keys)
    assert torch.equal(outputs, expected)
