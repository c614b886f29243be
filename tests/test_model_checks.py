"""A model that cannot be built or exported is rejected before anything runs."""

from __future__ import annotations

from typing import Any

import pytest

from graft.config.parameters import ModelConfig
from graft.errors import ConfigError
from graft.models.model_checks import check_model_config


def config(**values: Any) -> ModelConfig:  # noqa: ANN401
    return ModelConfig(**{"architecture": "mobilenet_v3_small", "weights": "none"} | values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"architecture": "resnet81"}, "did you mean 'resnet18'"),
        ({"weights": "IMAGENET1K_V9"}, "allowed are IMAGENET1K_V1, DEFAULT, letters"),
        ({"weights": "gone.safetensors"}, "which is not a file"),
        ({"architecture": "resnet18", "weights": "letters"}, "fits mobilenet_v3_small only"),
        ({"architecture": "fasterrcnn_resnet50_fpn"}, "model.architecture is 'fasterrcnn_resnet50_fpn'"),
        (
            {"architecture": "vit_b_16", "crop_px": 100},
            "model.crop_px is 100, which vit_b_16 cannot take; use a multiple of 16, such as 224.",
        ),
        (
            {"architecture": "vit_b_16", "weights": "IMAGENET1K_V1", "crop_px": 256},
            "model.crop_px is 256, but the weights of vit_b_16 fit 224 only",
        ),
        (
            {"architecture": "inception_v3", "resize_px": 64},
            "model.resize_px is 64, which inception_v3 cannot take; use 299.",
        ),
        ({"architecture": "maxvit_t", "crop_px": 256}, "which maxvit_t cannot take; use 224."),
        ({"architecture": "vit_h_14"}, "whose weights of 2.5 GB do not fit an ONNX file, which holds 2 GB"),
    ],
)
def test_check_model_config_rejects_what_cannot_be_built(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_model_config(config(**values))
    assert message in str(error.value)


@pytest.mark.parametrize("architecture", ["vit_b_16", "maxvit_t", "inception_v3"])
def test_check_model_config_accepts_another_size_that_fits(architecture: str) -> None:
    check_model_config(config(architecture=architecture, crop_px=448))
