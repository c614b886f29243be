"""Every torchvision classifier freezes, trains, splits, fuses and exports correctly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import randomize_batch_norms
from torch import nn
from torch.nn import functional
from torchvision import models

from graft.config.parameters import ModelConfig
from graft.errors import ConfigError
from graft.export.onnx_model import Deployable, export
from graft.features.model_tail import ModelTail, intermediate_features
from graft.models.backbones import build_model, preprocessing_for
from graft.models.freezing import FrozenStages
from graft.models.fusion import fuse_conv_bn
from graft.models.model_checks import check_model_config
from graft.models.stages import stage_names, stage_of
from graft.seeds import seeded
from graft.training.checkpoint import Checkpoint
from graft.training.history import WARM_UP
from graft.training.recipe import cpu_state_dict

ALWAYS = {"convnext_tiny", "mnasnet0_5", "mobilenet_v3_small", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1"}
TOO_LARGE = {"regnet_y_128gf", "vit_h_14"}
ALL = models.list_models(module=models)
SMALLEST_PX = {"alexnet": 63, "inception_v3": 75, "maxvit_t": 224}


def marked(architectures: set[str]) -> list[object]:
    """Test parameters; all architectures but those in ``ALWAYS`` have the marker ``large``."""
    marks = {name: [] if name in ALWAYS else [pytest.mark.large] for name in architectures}
    return [pytest.param(name, marks=marks[name]) for name in sorted(architectures)]


def config(architecture: str) -> ModelConfig:
    """The architecture without weights, for small images: 32 px for most, two patches a side for a ViT."""
    px = 2 * int(architecture.rsplit("_", 1)[1]) if architecture.startswith("vit_") else 32
    return ModelConfig(architecture=architecture, weights="none", crop_px=SMALLEST_PX.get(architecture, px))


def changed_stages(model: nn.Module, unfrozen_stages: int, px: int) -> set[str]:
    """The stages whose parameters or buffers change in a training step."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    frozen = FrozenStages(model, unfrozen_stages, "all_frozen")
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.01)
    model.train()
    with seeded(0):
        logits = model(torch.randn(2, 3, px, px))
    # With random weights, logits may be so large that their softmax saturates and has no gradient.
    loss = functional.cross_entropy(logits / logits.detach().std(), torch.tensor([0, 2]))
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    frozen.release("a test")
    assert loss.isfinite()
    return {stage_of(name) for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("architecture", marked(set(ALL)))
def test_training_step_changes_unfrozen_stages_only(architecture: str) -> None:
    small = config(architecture)
    model, px = build_model(small, 3, seed=0), preprocessing_for(small).crop_px
    assert changed_stages(model, 0, px) == {"head"}
    assert changed_stages(model, 1, px) == set(stage_names(model)[-2:])


@pytest.mark.parametrize("architecture", marked(set(ALL)))
@torch.no_grad()
def test_model_tail_computes_the_same_from_any_stage_on(architecture: str) -> None:
    small = config(architecture)
    model, px = build_model(small, 3, seed=0).eval(), preprocessing_for(small).crop_px
    images = torch.randn(2, 3, px, px, generator=torch.Generator().manual_seed(0))
    names = [name for name in stage_names(model)[1:] if name != "embedding"]
    expected, features = model(images), intermediate_features(model, images, names)
    for name in names:
        difference = (ModelTail(model, name)(features[name]) - expected).abs().max()
        assert difference <= 1e-5 * expected.abs().max(), name


@pytest.mark.parametrize("architecture", marked(set(ALL)))
@torch.no_grad()
def test_fused_model_computes_the_same_at_every_stage(architecture: str) -> None:
    small = config(architecture)
    model, px = randomize_batch_norms(build_model(small, 3, seed=0)).eval(), preprocessing_for(small).crop_px
    images = torch.randn(2, 3, px, px, generator=torch.Generator().manual_seed(0))
    names = [name for name in stage_names(model)[1:] if name != "embedding"]
    expected = intermediate_features(model, images, names)
    features = intermediate_features(fuse_conv_bn(model), images, names)
    for name in names:
        difference = (features[name] - expected[name]).abs().max()
        assert difference <= 1e-4 * expected[name].abs().max(), name


@pytest.mark.parametrize("architecture", marked(set(ALL) - TOO_LARGE))
def test_exported_model_computes_the_same(architecture: str) -> None:
    small = config(architecture)
    check_model_config(small)
    model = build_model(small, 3, seed=0)
    checkpoint = Checkpoint(
        architecture, small.dropout, ["ant", "bee", "cat"], preprocessing_for(small), WARM_UP,
        cpu_state_dict(model), "", {},
    )  # fmt: skip
    px = preprocessing_for(small).crop_px
    images = np.random.default_rng(0).integers(0, 256, (2, px + 5, px + 11, 3)).astype(np.uint8)
    expected, temperature = predict_with_torch(checkpoint, images)
    probabilities = export(checkpoint, temperature, 20, {}).session().run(None, {"image": images})[0]
    assert np.ptp(expected) > 0.1
    assert probabilities == pytest.approx(expected, abs=1e-3)


@torch.inference_mode()
def predict_with_torch(checkpoint: Checkpoint, images: np.ndarray) -> tuple[np.ndarray, float]:
    """Probabilities, and a temperature at which they differ: logits of random weights are tiny or huge."""
    model, px = checkpoint.model(), checkpoint.preprocessing.crop_px
    with seeded(0):
        temperature = float(model(torch.randn(2, 3, px, px)).std())
    deployable = Deployable(model, checkpoint.preprocessing, temperature).eval()
    return deployable(torch.from_numpy(images)).numpy(), temperature


@pytest.mark.parametrize("architecture", sorted(TOO_LARGE))
def test_check_model_config_rejects_architecture_too_large_for_onnx(architecture: str) -> None:
    with pytest.raises(ConfigError, match=r"GB do not fit an ONNX file, which holds 2 GB; choose a smaller"):
        check_model_config(config(architecture))
