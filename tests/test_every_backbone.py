"""Every architecture that torchvision classifies with trains, freezes, thaws and exports as any other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import lived_in
from torch import nn
from torch.nn import functional
from torchvision import models

from graft.checkpoint import Checkpoint
from graft.config import ModelConfig
from graft.errors import ConfigError
from graft.learning.history import EpochMetrics
from graft.networks.backbones import build, check, preprocessing, stage_of, stages
from graft.networks.features import Rest, stage_inputs
from graft.networks.freezing import Frozen
from graft.networks.fusing import fused
from graft.onnx_model import Deployable, export
from graft.recipe import contiguous
from graft.seeds import seeded

ALWAYS = {"convnext_tiny", "mnasnet0_5", "mobilenet_v3_small", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1"}
TOO_LARGE = {"regnet_y_128gf", "vit_h_14"}
ALL = models.list_models(module=models)
SMALLEST_PX = {"alexnet": 63, "inception_v3": 75, "maxvit_t": 224}


def marked(architectures: set[str]) -> list[object]:
    """Those that take long carry the marker ``large``."""
    marks = {name: [] if name in ALWAYS else [pytest.mark.large] for name in architectures}
    return [pytest.param(name, marks=marks[name]) for name in sorted(architectures)]


def config(architecture: str) -> ModelConfig:
    """The architecture without weights, for small images: 32 px are enough for most, two patches for a ViT."""
    patches = 2 * int(architecture.rsplit("_", 1)[1]) if architecture.startswith("vit_") else 32
    return ModelConfig(architecture=architecture, weights="none", crop_px=SMALLEST_PX.get(architecture, patches))


def moved(model: nn.Module, unfrozen_stages: int, px: int) -> set[str]:
    """The stages of which a step of training moves any parameter or buffer."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    frozen = Frozen(model, unfrozen_stages, "all_frozen")
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.01)
    model.train()
    with seeded(0):
        logits = model(torch.randn(2, 3, px, px))
    # Random weights may give logits so large that a softmax of them has no gradient left.
    loss = functional.cross_entropy(logits / logits.detach().std(), torch.tensor([0, 2]))
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    frozen.release("a test")
    assert loss.isfinite()
    return {stage_of(name) for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("architecture", marked(set(ALL)))
def test_the_head_moves_and_what_is_thawed_and_nothing_else(architecture: str) -> None:
    small = config(architecture)
    model, px = build(small, 3, seed=0), preprocessing(small).crop_px
    assert moved(model, 0, px) == {"head"}
    assert moved(model, 1, px) == set(stages(model)[-2:])


@pytest.mark.parametrize("architecture", marked(set(ALL)))
@torch.no_grad()
def test_cut_before_any_stage_it_gives_the_same(architecture: str) -> None:
    small = config(architecture)
    model, px = build(small, 3, seed=0).eval(), preprocessing(small).crop_px
    images = torch.randn(2, 3, px, px, generator=torch.Generator().manual_seed(0))
    names = [name for name in stages(model)[1:] if name != "embedding"]
    whole, given = model(images), stage_inputs(model, images, names)
    for name in names:
        difference = (Rest(model, name)(given[name]) - whole).abs().max()
        assert difference <= 1e-5 * whole.abs().max(), name


@pytest.mark.parametrize("architecture", marked(set(ALL)))
@torch.no_grad()
def test_fused_it_gives_the_same_at_every_stage(architecture: str) -> None:
    small = config(architecture)
    model, px = lived_in(build(small, 3, seed=0)).eval(), preprocessing(small).crop_px
    images = torch.randn(2, 3, px, px, generator=torch.Generator().manual_seed(0))
    names = [name for name in stages(model)[1:] if name != "embedding"]
    expected, given = stage_inputs(model, images, names), stage_inputs(fused(model), images, names)
    for name in names:
        difference = (given[name] - expected[name]).abs().max()
        assert difference <= 1e-4 * expected[name].abs().max(), name


@pytest.mark.parametrize("architecture", marked(set(ALL) - TOO_LARGE))
def test_the_export_is_the_model(architecture: str) -> None:
    small = config(architecture)
    check(small)
    model = build(small, 3, seed=0)
    checkpoint = Checkpoint(
        architecture, small.dropout, ["ant", "bee", "cat"], preprocessing(small), "warm_up",
        contiguous(model), "", {}, EpochMetrics(1, 1, 0.5, 0.5, 0.5),
    )  # fmt: skip
    px = preprocessing(small).crop_px
    images = np.random.default_rng(0).integers(0, 256, (2, px + 5, px + 11, 3)).astype(np.uint8)
    expected, temperature = by_torch(checkpoint, images)
    received = export(checkpoint, temperature, 20, {}).session().run(None, {"image": images})[0]
    assert np.ptp(expected) > 0.1
    assert received == pytest.approx(expected, abs=1e-3)


@torch.inference_mode()
def by_torch(checkpoint: Checkpoint, images: np.ndarray) -> tuple[np.ndarray, float]:
    """Probabilities at a temperature that spreads them: random weights give tiny or huge logits."""
    model, px = checkpoint.model(), checkpoint.preprocessing.crop_px
    with seeded(0):
        temperature = float(model(torch.randn(2, 3, px, px)).std())
    deployable = Deployable(model, checkpoint.preprocessing, temperature).eval()
    return deployable(torch.from_numpy(images)).numpy(), temperature


@pytest.mark.parametrize("architecture", sorted(TOO_LARGE))
def test_what_no_onnx_file_holds_is_refused(architecture: str) -> None:
    with pytest.raises(ConfigError, match=r"GB do not fit an ONNX file, which holds 2 GB; choose a smaller"):
        check(config(architecture))
