"""What is computed faster than layer by layer gives what layer by layer would give."""

from __future__ import annotations

import gc
import weakref
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from networks import lived_in
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models import get_model

from graft.compute.devices import Compute
from graft.compute.kernels import FastKernels
from graft.networks.features import Rest, stage_inputs
from graft.networks.fusing import fused
from graft.training_config import ComputeConfig

BFLOAT16 = Compute.of(ComputeConfig(device="cpu", precision="bfloat16"))


@pytest.mark.parametrize(
    ("architecture", "left"),
    [("mobilenet_v3_small", 0), ("resnet18", 1), ("densenet121", 63), ("shufflenet_v2_x0_5", 0), ("vgg11_bn", 8)],
)
def test_a_fused_network_says_the_same_with_fewer_batch_norms(architecture: str, left: int) -> None:
    torch.manual_seed(0)
    model = lived_in(get_model(architecture, weights=None)).eval()
    images = torch.rand(2, 3, 64, 64)
    quick = fused(model)
    with torch.inference_mode():
        assert torch.allclose(quick(images), model(images), rtol=1e-4, atol=1e-5)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in quick.modules()) == left


def test_a_fused_network_is_gone_when_nobody_holds_it() -> None:
    model = get_model("resnet18", weights=None)
    gc.collect()
    gc.disable()
    try:
        quick = weakref.ref(fused(model))
        assert quick() is None
    finally:
        gc.enable()


def test_a_convolution_that_runs_twice_is_left_alone() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer1 = nn.ModuleList([nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)])

        def forward(self, images: Tensor) -> Tensor:
            convolution, norm = self.layer1
            out: Tensor = norm(convolution(convolution(images)))
            return out

    model, images = lived_in(Twice()).eval(), torch.rand(2, 3, 4, 4)
    assert torch.equal(fused(model)(images), model(images))


def test_fusing_leaves_the_network_and_what_passes_between_stages_as_they_are() -> None:
    torch.manual_seed(0)
    model = lived_in(get_model("resnet18", weights=None)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images, names = torch.rand(2, 3, 64, 64), ["bn1", "layer1", "layer3"]
    quick = fused(model)
    given = stage_inputs(quick, images, names)
    assert model.training
    assert quick.get_submodule("fc").weight is model.get_submodule("fc").weight
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for name, value in stage_inputs(model, images, names).items():
        assert torch.allclose(given[name], value, rtol=1e-4, atol=1e-5), name


@torch.no_grad()
def test_the_shapes_within_an_architecture_are_found_once() -> None:
    ran = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = get_model("resnet18", weights=None).eval()
        model.image_size = 96  # of no other test
        model.layer1.register_forward_hook(lambda *_, seed=seed: ran.append(seed))
        rest, images = Rest(model, "layer3"), torch.rand(2, 3, 96, 96)
        assert ran.count(seed) == (1 if seed == 0 else 0)
        given = stage_inputs(model, images, ["layer3"])["layer3"]
        assert torch.allclose(rest(given), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_a_strided_depthwise_convolution_has_its_gradients_in_bfloat16(bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8, bias=bias).to(memory_format=torch.channels_last)
    images = torch.rand(2, 8, 9, 9)

    def gradients() -> list[Tensor]:
        given = images.clone().requires_grad_()
        layer.zero_grad()
        with BFLOAT16.autocast():
            out = layer(given)
        assert out.dtype is torch.bfloat16
        out.float().square().sum().backward()
        return [value.grad for value in (given, *layer.parameters()) if value.grad is not None]

    fast, calls = gradients(), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("graft.compute.kernels._is_slow", lambda *_: calls.append(1))
        plain = gradients()
    assert calls
    assert len(fast) == (3 if bias else 2)
    for one, other in zip(fast, plain, strict=True):
        assert one.dtype is torch.float32
        assert torch.allclose(one, other, rtol=0.02, atol=0.02 * float(other.abs().max()))


def test_only_the_slow_convolution_is_computed_otherwise() -> None:
    images = torch.rand(1, 8, 9, 9, requires_grad=True)
    names = []
    with FastKernels():
        for layer in (
            nn.Conv2d(8, 8, 3, stride=2, groups=8), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 3, stride=2),
            nn.Conv2d(8, 8, 3, stride=2, groups=4), nn.Conv2d(8, 8, 3, stride=2, padding="valid", groups=8),
        ):  # fmt: skip
            out = layer(images)
            out.sum().backward()
            names.append(out.grad_fn.name())
        assert nn.Conv2d(8, 8, 3, stride=2, groups=8)(images[0]).grad_fn.name() == "SqueezeBackward1"
        with torch.no_grad():
            assert nn.Conv2d(8, 8, 3, stride=2, groups=8)(images).grad_fn is None
    assert [name.startswith("_Strided") for name in names] == [True, False, False, False, False]


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the shapes of what is multiplied batch by batch."""

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
def test_the_weights_of_frozen_self_attention_are_not_copied_for_each_place(fast: bool) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True).requires_grad_(False)
    images, places = torch.rand(4, 5, 8), 5
    expected, _ = attention(images, images, images, need_weights=False)
    with Products() as products, torch.autocast("cpu", torch.bfloat16), FastKernels() if fast else nullcontext():
        said, _ = attention(images, images, images, need_weights=False)
    assert (torch.Size([places, 8, 3 * 8]) in products.shapes) is not fast
    assert torch.allclose(said.float(), expected, atol=0.02)


def test_attention_to_something_else_is_left_alone() -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    asked, known = torch.rand(4, 5, 8), torch.rand(4, 3, 8)
    expected, _ = attention(asked, known, known)
    with FastKernels():
        said, _ = attention(asked, known, known)
    assert torch.equal(said, expected)
