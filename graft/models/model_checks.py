"""Checks of the config's ``model`` section against what torchvision and ONNX support."""

from __future__ import annotations

from pathlib import Path

import torch
from torchvision import models

from graft.config.parameters import ModelConfig
from graft.errors import ConfigError, did_you_mean
from graft.models.backbones import meta_model, preprocessing_for
from graft.models.weights import LETTERS_ARCHITECTURE, LICENCES, WEIGHT_SUFFIXES

MAX_ONNX_BYTES = 2**31  # the limit of a protobuf message, and so of a single ONNX file


def check_model_config(config: ModelConfig) -> None:
    """Raise ``ConfigError`` if a model cannot be built or exported.

    The reasons are an unknown architecture, weights that do not exist for it, an image size that it does not accept,
    or too many parameters for an ONNX file.
    """
    allowed = models.list_models(module=models)
    if config.architecture not in allowed:
        raise ConfigError(
            f"model.architecture is {config.architecture!r}; {did_you_mean(allowed, config.architecture)}"
        )
    _check_weights(config)
    _check_size(config)


def _check_weights(config: ModelConfig) -> None:
    if config.weights == "letters" and config.architecture != LETTERS_ARCHITECTURE:
        raise ConfigError(
            f"model.weights is 'letters', which fits {LETTERS_ARCHITECTURE} only; "
            f"model.architecture is {config.architecture!r}."
        )
    if config.weights in LICENCES:
        return
    path = Path(config.weights)
    if path.suffix in WEIGHT_SUFFIXES:
        if not path.is_file():
            raise ConfigError(f"model.weights is {config.weights!r}, which is not a file; give its path.")
        return
    allowed = [*models.get_model_weights(config.architecture).__members__, *LICENCES]
    if config.weights not in allowed:
        raise ConfigError(
            f"model.weights is {config.weights!r}; {did_you_mean(allowed, config.weights)[:-1]}, "
            f"or the path of a .safetensors or .pth file."
        )


def _check_size(config: ModelConfig) -> None:
    architecture, crop = config.architecture, preprocessing_for(config).crop_px
    native = preprocessing_for(config.model_copy(update={"crop_px": None, "resize_px": None})).crop_px
    field = f"model.{'crop_px' if config.crop_px else 'resize_px'} is {crop}"
    vit = architecture.startswith("vit_")
    try:
        model = meta_model(config)
        with torch.inference_mode():
            model(torch.empty(2, 3, crop, crop, device="meta"))
    # torchvision asserts, torch raises several types; each of them means an image size that does not fit.
    except (AssertionError, RuntimeError, ValueError) as error:
        hint = f"a multiple of {architecture.split('_')[-1]}, such as {native}" if vit else native
        raise ConfigError(f"{field}, which {architecture} cannot take; use {hint}.") from error
    if vit and crop != native and config.weights in models.get_model_weights(architecture).__members__:
        raise ConfigError(f"{field}, but the weights of {architecture} fit {native} only; use that.")
    size_bytes = sum(value.nbytes for value in model.state_dict().values())
    if size_bytes > MAX_ONNX_BYTES:
        raise ConfigError(
            f"model.architecture is {architecture!r}, whose weights of {size_bytes / 1e9:.1f} GB do not fit "
            f"an ONNX file, which holds 2 GB; choose a smaller architecture."
        )
