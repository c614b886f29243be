"""Builds any torchvision classification model with pretrained weights, a new head and ordered stages."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import MethodType
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_parameter_registration_hook
from torchvision import models

from graft.config.parameters import ModelConfig
from graft.models.stages import head_name, stage_names
from graft.models.transforms import Preprocessing
from graft.models.weights import load_pretrained
from graft.seeds import seeded

INCEPTION_MEAN = INCEPTION_STD = (0.5, 0.5, 0.5)  # inputs -1..1
LETTERS_PREPROCESSING = Preprocessing(48, 48, mean=INCEPTION_MEAN, std=INCEPTION_STD)
# Trained on inputs -1..1, to which torchvision's own models rescale ImageNet-normalised ones.
INCEPTION_ARCHITECTURES = ("googlenet", "inception_v3")

logger = logging.getLogger(__name__)


def build_model(config: ModelConfig, classes: int, seed: int) -> nn.Module:
    """A pretrained backbone with a new head of ``classes`` outputs.

    It takes normalised images float32 ``[batch, 3, height, width]`` and returns logits float32 ``[batch, classes]``.
    Raises ``WeightsError`` if the weights cannot be read or do not fit.
    """
    with seeded(seed):
        model = create_model(config.architecture, classes, config.dropout, preprocessing_for(config).crop_px)
    if config.weights != "none":
        report = load_pretrained(model, config)
        if Path(config.weights).suffix or report.missing:
            _log_once(f"{config.weights}: {report.describe()}")
            logger.debug("loaded %s; missing %s; unused %s", report.loaded, report.missing, report.unused)
    return model


@cache
def _log_once(message: str) -> None:
    """Log a message unless it was logged before: every fold loads the same weights."""
    logger.info(message)


def create_model(architecture: str, classes: int, dropout: float, image_px: int) -> nn.Module:
    """The model with random weights, into which pretrained weights or those of a checkpoint are loaded."""
    options: dict[str, object] = {}
    if architecture in INCEPTION_ARCHITECTURES:
        options = {"aux_logits": False, "init_weights": False}
    if architecture.startswith("vit_"):
        options = {"image_size": image_px}
    if architecture.startswith("maxvit_"):
        options = {"input_size": (image_px, image_px)}
    model: nn.Module = models.get_model(architecture, weights=None, **options)
    if isinstance(model, models.MNASNet):
        # MNASNet's own method rejects a state dict without version metadata, which safetensors files lack.
        model._load_from_state_dict = MethodType(nn.Module._load_from_state_dict, model)
    # As torchvision's ViT names it: other code needs to know it, since some architectures accept only one size.
    model.image_size = image_px  # type: ignore[assignment]
    name = head_name(model)
    setattr(model, name, new_head(getattr(model, name), classes, dropout))
    return model


def new_head(old: nn.Module, classes: int, dropout: float) -> nn.Module:
    """A head with one new weighted layer in place of the old head's; the old norms and pooling before it are reused."""
    layers = list(old.children()) or [old]
    index = next(index for index, layer in enumerate(layers) if isinstance(layer, nn.Linear | nn.Conv2d))
    before = [layer for layer in layers[:index] if not isinstance(layer, nn.Dropout)]
    weighted = layers[index]
    if isinstance(weighted, nn.Conv2d):  # SqueezeNet classifies with a 1 x 1 convolution, then pools
        return nn.Sequential(
            *before, nn.Dropout(dropout), nn.Conv2d(weighted.in_channels, classes, 1), nn.AdaptiveAvgPool2d(1)
        )
    assert isinstance(weighted, nn.Linear)
    return nn.Sequential(*before, nn.Dropout(dropout), nn.Linear(weighted.in_features, classes))


def preprocessing_for(config: ModelConfig) -> Preprocessing:
    """The preprocessing that the weights were trained with; sizes from the config override it."""
    if config.weights == "letters":
        native = LETTERS_PREPROCESSING
    else:
        members = models.get_model_weights(config.architecture)
        preset = (members[config.weights] if config.weights in members.__members__ else members.DEFAULT).transforms()
        inception = config.architecture in INCEPTION_ARCHITECTURES
        mean, std = (INCEPTION_MEAN, INCEPTION_STD) if inception else (preset.mean, preset.std)
        native = Preprocessing(preset.resize_size[0], preset.crop_size[0], tuple(mean), tuple(std))
    crop = config.crop_px or min(native.crop_px, config.resize_px or native.crop_px)
    resize = config.resize_px or max(native.resize_px, crop)
    return Preprocessing(resize, crop, native.mean, native.std)


def count_stages(config: ModelConfig) -> int:
    """The number of stages of the backbone, without the head."""
    return len(stage_names(meta_model(config))) - 1


def has_batch_norms(config: ModelConfig) -> bool:
    """Whether the network has any batch norm."""
    return any(isinstance(module, _BatchNorm) for module in meta_model(config).modules())


def meta_model(config: ModelConfig) -> nn.Module:
    """The model on the meta device, in eval mode: shapes without values, at no cost in memory or time.

    Raises ``ValueError`` if the architecture cannot be built for the image size.
    """
    with _meta_parameters():
        model = create_model(config.architecture, 2, config.dropout, preprocessing_for(config).crop_px)
    return model.to("meta").eval()


@contextmanager
def _meta_parameters() -> Iterator[None]:
    # Not `with torch.device("meta")`: RegNet computes its widths with tensors, and needs their values.
    handle = register_module_parameter_registration_hook(_to_meta)
    try:
        yield
    finally:
        handle.remove()


def _to_meta(_: nn.Module, __: str, parameter: nn.Parameter | None) -> Any:  # noqa: ANN401  torch's own type
    return None if parameter is None else nn.Parameter(parameter.to("meta"))
