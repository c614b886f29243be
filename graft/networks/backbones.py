"""Any torchvision classification model as a backbone with ordered stages and a new head."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_parameter_registration_hook
from torchvision import models

from graft.config import ModelConfig
from graft.config_file import allowed_keys
from graft.errors import ConfigError
from graft.networks.transforms import Preprocessing
from graft.networks.weights import FILES, LETTERS_ARCHITECTURE, LICENCES, load
from graft.seeds import seeded

HALVES = (0.5, 0.5, 0.5)
LETTERS_PREPROCESSING = Preprocessing(48, 48, mean=HALVES, std=HALVES)
RESCALING = (
    "googlenet",
    "inception_v3",
)  # trained on inputs of mean 0.5; torchvision re-scales ImageNet's for them
HEADS = ("fc", "classifier", "head", "heads")
NESTED_STAGES = ("features", "layers", "blocks", "trunk_output")
LARGEST_BYTES = 2**31  # of a protobuf message, and so of an ONNX file

logger = logging.getLogger(__name__)


def build(config: ModelConfig, classes: int, seed: int) -> nn.Module:
    """A pretrained backbone with a new head of ``classes`` outputs.

    It takes normalised float32 ``[batch, 3, height, width]`` and returns logits float32 ``[batch, classes]``.
    Raises ``WeightsError`` where the weights are not to be had or do not fit.
    """
    with seeded(seed):
        model = skeleton(config.architecture, classes, config.dropout, preprocessing(config).crop_px)
    if config.weights != "none":
        report = load(model, config)
        if Path(config.weights).suffix or report.missing:
            _say_once(f"{config.weights}: {report.in_words()}")
            logger.debug("loaded %s; missing %s; left over %s", report.loaded, report.missing, report.left_over)
    return model


@cache
def _say_once(message: str) -> None:
    """However many folds begin with the same weights."""
    logger.info(message)


def skeleton(architecture: str, classes: int, dropout: float, image_px: int) -> nn.Module:
    """The model with random weights: what a checkpoint's weights are loaded into."""
    options: dict[str, object] = {}
    if architecture in RESCALING:
        options = {"aux_logits": False, "init_weights": False}
    if architecture.startswith("vit_"):
        options = {"image_size": image_px}
    if architecture.startswith("maxvit_"):
        options = {"input_size": (image_px, image_px)}
    model: nn.Module = models.get_model(architecture, weights=None, **options)
    if isinstance(model, models.MNASNet):
        # Its own refuses every state dict without the version of its class, so all that safetensors hold.
        model._load_from_state_dict = MethodType(nn.Module._load_from_state_dict, model)
    model.image_size = image_px  # type: ignore[assignment]  # as ViTs say it: several take one size only
    name = head_name(model)
    setattr(model, name, new_head(getattr(model, name), classes, dropout))
    return model


def new_head(old: nn.Module, classes: int, dropout: float) -> nn.Module:
    """Replace a classifier from its first weighted layer on; what shapes its input (norms, pooling) stays."""
    layers = list(old.children()) or [old]
    first = next(i for i, layer in enumerate(layers) if isinstance(layer, nn.Linear | nn.Conv2d))
    kept = [layer for layer in layers[:first] if not isinstance(layer, nn.Dropout)]
    weighted = layers[first]
    if isinstance(weighted, nn.Conv2d):  # SqueezeNet classifies by a 1 x 1 convolution, then pools
        return nn.Sequential(
            *kept, nn.Dropout(dropout), nn.Conv2d(weighted.in_channels, classes, 1), nn.AdaptiveAvgPool2d(1)
        )
    assert isinstance(weighted, nn.Linear)
    return nn.Sequential(*kept, nn.Dropout(dropout), nn.Linear(weighted.in_features, classes))


def head_name(model: nn.Module) -> str:
    """The name of the child that classifies."""
    return next(name for name, _ in model.named_children() if name in HEADS)


def stage_of(name: str) -> str:
    """The stage that a parameter or module belongs to, by its name: ``layer1``, ``features.0``, ``head`` …"""
    parts = name.split(".")
    if parts[0] in HEADS:
        return "head"
    if parts[0] == "encoder" and len(parts) > 1 and parts[1] in ("layers", "ln"):
        return ".".join(parts[: 3 if parts[1] == "layers" else 2])
    if parts[0] in ("class_token", "conv_proj", "encoder"):
        return "embedding"  # of a ViT, whose token, patches and positions are joined before its first layer
    return ".".join(parts[:2]) if parts[0] in NESTED_STAGES else parts[0]


def stages(model: nn.Module) -> list[str]:
    """The stages that hold parameters, from input to output, the head last."""
    names = dict.fromkeys(stage_of(name) for name, _ in model.named_parameters())
    return [name for name in names if name != "head"] + ["head"]


def named_stage_parameters(model: nn.Module, stage: str) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of one stage."""
    return ((name, value) for name, value in model.named_parameters() if stage_of(name) == stage)


def preprocessing(config: ModelConfig) -> Preprocessing:
    """What the weights were trained on, with the config's sizes where it names any."""
    if config.weights == "letters":
        native = LETTERS_PREPROCESSING
    else:
        members = models.get_model_weights(config.architecture)
        preset = (
            members[config.weights] if config.weights in members.__members__ else members.DEFAULT
        ).transforms()
        mean, std = (HALVES, HALVES) if config.architecture in RESCALING else (preset.mean, preset.std)
        native = Preprocessing(preset.resize_size[0], preset.crop_size[0], tuple(mean), tuple(std))
    crop = config.crop_px or min(native.crop_px, config.resize_px or native.crop_px)
    resize = config.resize_px or max(native.resize_px, crop)
    return Preprocessing(resize, crop, native.mean, native.std)


def check(config: ModelConfig) -> None:
    """Refuse what cannot be meant or cannot work; raises ``ConfigError``.

    That is an unknown architecture, weights that it has not, a size of images that it cannot take, and a
    network too large for an ONNX file.
    """
    known = models.list_models(module=models)
    if config.architecture not in known:
        raise ConfigError(
            f"model.architecture is {config.architecture!r}; {allowed_keys(known, config.architecture)}"
        )
    _check_weights(config)
    _check_size(config)


def count_stages(config: ModelConfig) -> int:
    """How many stages the backbone has, without the head."""
    return len(stages(outline(config))) - 1


def has_batch_norms(config: ModelConfig) -> bool:
    """Whether any layer of the network normalises over a batch."""
    return any(isinstance(module, _BatchNorm) for module in outline(config).modules())


def outline(config: ModelConfig) -> nn.Module:
    """The skeleton on the meta device: shapes without numbers, which takes neither memory nor time.

    Raises ``ValueError`` where the architecture cannot be built for the size of the images.
    """
    with _shapes_only():
        model = skeleton(config.architecture, 2, config.dropout, preprocessing(config).crop_px)
    return model.to("meta").eval()


@contextmanager
def _shapes_only() -> Iterator[None]:
    # Not `with torch.device("meta")`, in which RegNet cannot compute how wide it is to be.
    handle = register_module_parameter_registration_hook(_without_numbers)
    try:
        yield
    finally:
        handle.remove()


def _without_numbers(_: nn.Module, __: str, parameter: nn.Parameter | None) -> Any:  # noqa: ANN401  torch's own type
    return None if parameter is None else nn.Parameter(parameter.to("meta"))


def _check_weights(config: ModelConfig) -> None:
    if config.weights == "letters" and config.architecture != LETTERS_ARCHITECTURE:
        raise ConfigError(
            f"model.weights is 'letters', which fits {LETTERS_ARCHITECTURE} only; "
            f"model.architecture is {config.architecture!r}."
        )
    if config.weights in LICENCES:
        return
    path = Path(config.weights)
    if path.suffix in FILES:
        if not path.is_file():
            raise ConfigError(f"model.weights is {config.weights!r}, which is no file; give its path.")
        return
    names = [*models.get_model_weights(config.architecture).__members__, *LICENCES]
    if config.weights not in names:
        raise ConfigError(
            f"model.weights is {config.weights!r}; {allowed_keys(names, config.weights)[:-1]}, "
            f"or the path of a .safetensors or .pth file."
        )


def _check_size(config: ModelConfig) -> None:
    architecture, crop = config.architecture, preprocessing(config).crop_px
    native = preprocessing(config.model_copy(update={"crop_px": None, "resize_px": None})).crop_px
    field = f"model.{'crop_px' if config.crop_px else 'resize_px'} is {crop}"
    vit = architecture.startswith("vit_")
    try:
        model = outline(config)
        with torch.inference_mode():
            model(torch.empty(2, 3, crop, crop, device="meta"))
    # torchvision asserts, torch raises several types; each of them means that the size does not fit.
    except (AssertionError, RuntimeError, ValueError) as error:
        advice = f"a multiple of {architecture.split('_')[-1]}, such as {native}" if vit else native
        raise ConfigError(f"{field}, which {architecture} cannot take; use {advice}.") from error
    if vit and crop != native and config.weights in models.get_model_weights(architecture).__members__:
        raise ConfigError(f"{field}, but the weights of {architecture} know {native} alone; use that.")
    held = sum(value.nbytes for value in model.state_dict().values())
    if held > LARGEST_BYTES:
        raise ConfigError(
            f"model.architecture is {architecture!r}, whose weights of {held / 1e9:.1f} GB do not fit "
            f"an ONNX file, which holds 2 GB; choose a smaller architecture."
        )
