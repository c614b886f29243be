"""Any torchvision classifier becomes a backbone with stages and a head; what cannot be meant is refused."""

from __future__ import annotations

import copy
from functools import partial
from itertools import groupby
from typing import Any

import pytest
import torch
from torchvision import models

from graft.config import ModelConfig
from graft.errors import ConfigError
from graft.networks.backbones import build, check, count_stages, outline, preprocessing, skeleton, stage_of, stages

SMALL = ["mobilenet_v2", "mobilenet_v3_small", "resnet18", "squeezenet1_1", "shufflenet_v2_x0_5", "mnasnet0_5"]
MEDIUM = ["efficientnet_b0", "densenet121", "vit_b_16", "googlenet", "regnet_y_400mf", "swin_t", "convnext_tiny"]
ALL = models.list_models(module=models)


def config(**values: Any) -> ModelConfig:  # noqa: ANN401
    return ModelConfig(**{"architecture": "mobilenet_v3_small", "weights": "none"} | values)


@pytest.mark.parametrize("architecture", [*SMALL, *MEDIUM])
def test_the_head_is_new_and_there_are_stages(architecture: str) -> None:
    model = build(config(architecture=architecture), classes=3, seed=0).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 3)
    names = stages(model)
    assert names[-1] == "head"
    assert len(names) == len(set(names)) >= 5


@pytest.mark.parametrize("architecture", ALL)
def test_the_stages_run_from_input_to_output(architecture: str) -> None:
    model = outline(config(architecture=architecture))
    order: list[str] = []
    for name, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)) and name:
            module.register_forward_pre_hook(partial(_note, order, stage_of(name)))
    px = preprocessing(config(architecture=architecture)).crop_px
    logits = model(torch.empty(2, 3, px, px, device="meta"))
    assert logits.shape == (2, 2)
    logits.sum().backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []
    assert [stage for stage, _ in groupby(order)] == stages(model)


def _note(order: list[str], stage: str, *_: object) -> None:
    order.append(stage)


@pytest.mark.parametrize("architecture", SMALL)
def test_the_outline_is_the_skeleton_without_its_numbers(architecture: str) -> None:
    entries = outline(config(architecture=architecture)).state_dict()
    real = skeleton(architecture, 2, 0.2, 224)
    assert {name: value.shape for name, value in entries.items()} == {
        name: value.shape for name, value in real.state_dict().items()
    }
    assert {value.device.type for value in entries.values()} == {"meta"}
    assert {value.device.type for value in real.state_dict().values()} == {"cpu"}
    assert count_stages(config(architecture=architecture)) == len(stages(real)) - 1


def test_the_head_depends_on_the_seed_alone() -> None:
    torch.manual_seed(7)
    first = build(config(), 3, seed=1).state_dict()
    second = build(config(), 3, seed=1).state_dict()
    third = build(config(), 3, seed=2).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["classifier.1.weight"], third["classifier.1.weight"])


def test_mnasnet_takes_weights_that_know_no_version() -> None:
    model = build(config(architecture="mnasnet0_5"), 3, seed=0)
    other = copy.deepcopy(build(config(architecture="mnasnet0_5"), 3, seed=1))
    other.load_state_dict(dict(model.state_dict()))
    assert torch.equal(other.get_parameter("layers.0.weight"), model.get_parameter("layers.0.weight"))


def test_weights_bring_their_own_preprocessing() -> None:
    sizes = {
        weights: preprocessing(config(architecture="resnet50", weights=weights)).resize_px
        for weights in ("IMAGENET1K_V1", "IMAGENET1K_V2", "DEFAULT")
    }
    assert sizes == {"IMAGENET1K_V1": 256, "IMAGENET1K_V2": 232, "DEFAULT": 232}
    large = preprocessing(config(architecture="vit_b_16", weights="IMAGENET1K_SWAG_E2E_V1"))
    assert large.crop_px == 384
    assert preprocessing(config(architecture="inception_v3")).mean == (0.5, 0.5, 0.5)


def test_a_transformer_is_embedded_first_and_its_last_norm_thaws_first() -> None:
    names = stages(outline(config(architecture="vit_b_32")))
    assert names[:2] == ["embedding", "encoder.layers.encoder_layer_0"]
    assert names[-3:] == ["encoder.layers.encoder_layer_11", "encoder.ln", "head"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"architecture": "resnet81"}, "did you mean 'resnet18'"),
        ({"weights": "IMAGENET1K_V9"}, "allowed are IMAGENET1K_V1, DEFAULT, letters"),
        ({"weights": "gone.safetensors"}, "which is no file"),
        ({"architecture": "resnet18", "weights": "letters"}, "fits mobilenet_v3_small only"),
        ({"architecture": "fasterrcnn_resnet50_fpn"}, "model.architecture is 'fasterrcnn_resnet50_fpn'"),
        (
            {"architecture": "vit_b_16", "crop_px": 100},
            "model.crop_px is 100, which vit_b_16 cannot take; use a multiple of 16, such as 224.",
        ),
        (
            {"architecture": "vit_b_16", "weights": "IMAGENET1K_V1", "crop_px": 256},
            "model.crop_px is 256, but the weights of vit_b_16 know 224 alone",
        ),
        (
            {"architecture": "inception_v3", "resize_px": 64},
            "model.resize_px is 64, which inception_v3 cannot take; use 299.",
        ),
        ({"architecture": "maxvit_t", "crop_px": 256}, "which maxvit_t cannot take; use 224."),
        ({"architecture": "vit_h_14"}, "whose weights of 2.5 GB do not fit an ONNX file, which holds 2 GB"),
    ],
)
def test_what_cannot_be_meant_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        check(config(**values))
    assert words in str(error.value)


@pytest.mark.parametrize("architecture", ["vit_b_16", "maxvit_t", "inception_v3"])
def test_a_size_that_the_architecture_can_take_is_not(architecture: str) -> None:
    check(config(architecture=architecture, crop_px=448))


def test_sizes_may_be_given() -> None:
    assert preprocessing(config(resize_px=100, crop_px=90)).in_words().startswith("short side to 100 px")
    assert preprocessing(config(crop_px=500)).resize_px == 500
    assert preprocessing(config(resize_px=64)).crop_px == 64
