"""What is computed faster than layer by layer gives what layer by layer would give."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from graft.depthwise import FastDepthwise
from graft.devices import Compute
from graft.features import stage_inputs
from graft.fusing import fused
from graft.training_config import ComputeConfig

BFLOAT16 = Compute.of(ComputeConfig(device="cpu", precision="bfloat16"))


def lived_in(model: nn.Module) -> nn.Module:
    """Its batch norms with statistics as a training leaves them."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low in ((module.running_var, 0.5), (module.weight, 0.5), (module.running_mean, -0.5)):
                assert values is not None
                values.data.copy_(low + torch.rand(values.shape, generator=generator))
    return model


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


def test_fusing_leaves_the_network_and_what_passes_between_stages_as_they_are() -> None:
    torch.manual_seed(0)
    model = lived_in(get_model("resnet18", weights=None)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images, names = torch.rand(2, 3, 64, 64), ["bn1", "layer1", "layer3"]
    given = stage_inputs(fused(model), images, names)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for name, value in stage_inputs(model, images, names).items():
        assert torch.allclose(given[name], value, rtol=1e-4, atol=1e-5), name


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
        patch.setattr("graft.depthwise._is_slow", lambda *_: calls.append(1))
        plain = gradients()
    assert calls
    assert len(fast) == (3 if bias else 2)
    for one, other in zip(fast, plain, strict=True):
        assert one.dtype is torch.float32
        assert torch.allclose(one, other, rtol=0.02, atol=0.02 * float(other.abs().max()))


def test_only_the_slow_convolution_is_computed_otherwise() -> None:
    images = torch.rand(1, 8, 9, 9, requires_grad=True)
    names = []
    with FastDepthwise():
        for layer in (
            nn.Conv2d(8, 8, 3, stride=2, groups=8), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 3, stride=2),
            nn.Conv2d(8, 8, 3, stride=2, groups=4), nn.Conv2d(8, 8, 3, padding="same", groups=8),
        ):  # fmt: skip
            names.append(layer(images).grad_fn.name())
        with torch.no_grad():
            assert nn.Conv2d(8, 8, 3, stride=2, groups=8)(images).grad_fn is None
    assert [name.startswith("_Strided") for name in names] == [True, False, False, False, False]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another library allocates here")
def test_freed_memory_is_taken_again_without_a_page_fault() -> None:
    program = """
import resource, torch
from graft.memory import keep_freed_memory
keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(2**24); before = faults(); torch.ones(2**24); print(faults() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100  # by itself, one for each of 16,384 pages
