"""Every torchvision classifier can be built as a backbone with a new head."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from graft.config.parameters import ModelConfig
from graft.models.backbones import build_model, count_stages, create_model, meta_model, preprocessing_for
from graft.models.stages import stage_names

SMALL = ["mobilenet_v2", "mobilenet_v3_small", "resnet18", "squeezenet1_1", "shufflenet_v2_x0_5", "mnasnet0_5"]
MEDIUM = ["efficientnet_b0", "densenet121", "vit_b_16", "googlenet", "regnet_y_400mf", "swin_t", "convnext_tiny"]


def config(**values: Any) -> ModelConfig:  # noqa: ANN401
    return ModelConfig(**{"architecture": "mobilenet_v3_small", "weights": "none"} | values)


@pytest.mark.parametrize("architecture", [*SMALL, *MEDIUM])
def test_model_has_new_head_and_stages(architecture: str) -> None:
    model = build_model(config(architecture=architecture), classes=3, seed=0).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 3)
    names = stage_names(model)
    assert names[-1] == "head"
    assert len(names) == len(set(names)) >= 5


@pytest.mark.parametrize("architecture", SMALL)
def test_meta_model_has_the_shapes_of_the_real_model(architecture: str) -> None:
    meta = meta_model(config(architecture=architecture)).state_dict()
    model = create_model(architecture, 2, 0.2, 224)
    assert {name: value.shape for name, value in meta.items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }
    assert {value.device.type for value in meta.values()} == {"meta"}
    assert {value.device.type for value in model.state_dict().values()} == {"cpu"}
    assert count_stages(config(architecture=architecture)) == len(stage_names(model)) - 1


def test_head_depends_on_the_seed_alone() -> None:
    torch.manual_seed(7)
    first = build_model(config(), 3, seed=1).state_dict()
    second = build_model(config(), 3, seed=1).state_dict()
    third = build_model(config(), 3, seed=2).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["classifier.1.weight"], third["classifier.1.weight"])


def test_mnasnet_loads_a_state_dict_without_version() -> None:
    model = build_model(config(architecture="mnasnet0_5"), 3, seed=0)
    other = copy.deepcopy(build_model(config(architecture="mnasnet0_5"), 3, seed=1))
    other.load_state_dict(dict(model.state_dict()))
    assert torch.equal(other.get_parameter("layers.0.weight"), model.get_parameter("layers.0.weight"))


def test_preprocessing_is_that_of_the_weights() -> None:
    sizes = {
        weights: preprocessing_for(config(architecture="resnet50", weights=weights)).resize_px
        for weights in ("IMAGENET1K_V1", "IMAGENET1K_V2", "DEFAULT")
    }
    assert sizes == {"IMAGENET1K_V1": 256, "IMAGENET1K_V2": 232, "DEFAULT": 232}
    large = preprocessing_for(config(architecture="vit_b_16", weights="IMAGENET1K_SWAG_E2E_V1"))
    assert large.crop_px == 384
    assert preprocessing_for(config(architecture="inception_v3")).mean == (0.5, 0.5, 0.5)


def test_preprocessing_takes_sizes_from_the_config() -> None:
    assert preprocessing_for(config(resize_px=100, crop_px=90)).describe().startswith("short side to 100 px")
    assert preprocessing_for(config(crop_px=500)).resize_px == 500
    assert preprocessing_for(config(resize_px=64)).crop_px == 64
