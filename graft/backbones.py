"""Any torchvision classification model as a backbone with ordered stages and a new head."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import models

from graft.config import ModelConfig, Section
from graft.config_file import allowed_keys
from graft.errors import ConfigError, WeightsError
from graft.seeds import seeded
from graft.transforms import Preprocessing

LETTERS = Path(__file__).parent / "assets" / "letters_mobilenet_v3_small.safetensors"
LETTERS_ARCHITECTURE = "mobilenet_v3_small"
HALVES = (0.5, 0.5, 0.5)
LETTERS_PREPROCESSING = Preprocessing(48, 48, mean=HALVES, std=HALVES)
RESCALING = (
    "googlenet",
    "inception_v3",
)  # trained on inputs of mean 0.5; torchvision re-scales ImageNet's for them
HEADS = ("fc", "classifier", "head", "heads")
AUXILIARY = re.compile(r"^(aux\d?|AuxLogits)\.")
LICENCES = {
    "letters": "Apache-2.0 (pretrained by Graft on rendered letters)",
    "none": "no pretrained weights",
}


def build(config: ModelConfig, classes: int, seed: int) -> nn.Module:
    """A pretrained backbone with a new head of ``classes`` outputs.

    It takes normalised float32 ``[batch, 3, height, width]`` and returns logits float32 ``[batch, classes]``.
    Raises ``WeightsError`` where the weights are not to be had or do not fit.
    """
    with seeded(seed):
        model = skeleton(config.architecture, classes, config.dropout, preprocessing(config).crop_px)
    if config.weights != "none":
        _load(model, state_dict(config), config)
    return model


def skeleton(architecture: str, classes: int, dropout: float, image_px: int) -> nn.Module:
    """The model with random weights: what a checkpoint's weights are loaded into."""
    options: dict[str, object] = {}
    if architecture in RESCALING:
        options = {"aux_logits": False, "init_weights": False}
    if architecture.startswith("vit_"):
        options = {"image_size": image_px}
    model: nn.Module = models.get_model(architecture, weights=None, **options)
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
    if parts[0] == "encoder" and len(parts) > 2 and parts[1] in ("layers", "ln"):
        return ".".join(parts[: 3 if parts[1] == "layers" else 2])
    return ".".join(parts[:2]) if parts[0] in ("features", "layers", "blocks", "trunk_output") else parts[0]


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


def licence(config: ModelConfig) -> str:
    """The licence of the pretrained weights, as far as it is known."""
    if config.weights in LICENCES:
        return LICENCES[config.weights]
    if Path(config.weights).suffix:
        return f"as of {Path(config.weights).name}"
    return "BSD-3-Clause (torchvision), trained on ImageNet-1k: its terms apply"


class PinnedModel(Section):
    """A model with the fingerprint of its pretrained weights: a file replaced under its name is seen as new."""

    config: ModelConfig
    weights_fingerprint: str


def pin(config: ModelConfig) -> PinnedModel:
    """Fingerprint the weights: SHA-256 of a file, the address of torchvision's."""
    path = LETTERS if config.weights == "letters" else Path(config.weights)
    if path.is_file():
        with path.open("rb") as file:
            return PinnedModel(config=config, weights_fingerprint=hashlib.file_digest(file, "sha256").hexdigest())
    if config.weights == "none":
        return PinnedModel(config=config, weights_fingerprint="none")
    weights = models.get_model_weights(config.architecture)[config.weights]
    return PinnedModel(config=config, weights_fingerprint=str(weights.url))


def check(config: ModelConfig) -> None:
    """Refuse an unknown architecture or weights that cannot be meant; raises ``ConfigError``."""
    known = models.list_models(module=models)
    if config.architecture not in known:
        raise ConfigError(
            f"model.architecture is {config.architecture!r}; {allowed_keys(known, config.architecture)}"
        )
    if config.weights == "letters" and config.architecture != LETTERS_ARCHITECTURE:
        raise ConfigError(
            f"model.weights is 'letters', which fits {LETTERS_ARCHITECTURE} only; "
            f"model.architecture is {config.architecture!r}."
        )
    if config.weights in LICENCES:
        return
    path = Path(config.weights)
    if path.suffix in (".safetensors", ".pth", ".pt"):
        if not path.is_file():
            raise ConfigError(f"model.weights is {config.weights!r}, which is no file; give its path.")
        return
    names = [*models.get_model_weights(config.architecture).__members__, *LICENCES]
    if config.weights != "DEFAULT" and config.weights not in names:
        raise ConfigError(
            f"model.weights is {config.weights!r}; {allowed_keys(['DEFAULT', *names], config.weights)[:-1]}, "
            f"or the path of a .safetensors or .pth file."
        )


def state_dict(config: ModelConfig) -> dict[str, Tensor]:
    """Read pretrained weights: bundled, from a file (never a pickle), or by torchvision's name."""
    if config.weights == "letters":
        return load_file(LETTERS)
    path = Path(config.weights)
    if path.suffix:
        try:
            if path.suffix == ".safetensors":
                return load_file(path)
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        # Both readers raise many types on damaged or foreign files; each of them means the same to us.
        except Exception as error:
            raise WeightsError(f"{path}: cannot be read as weights ({error}); give a plain state dict.") from error
        if not isinstance(loaded, dict):
            raise WeightsError(f"{path}: holds a {type(loaded).__name__}; give a plain state dict.")
        return loaded
    weights = models.get_model_weights(config.architecture)[config.weights]
    try:
        return dict(weights.get_state_dict(progress=True, check_hash=True))
    except (URLError, OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise WeightsError(
            f"the weights {weights} could not be downloaded ({error}); fetch {weights.url} where the network "
            f"allows and place it in {folder}, or give the path of a file in model.weights."
        ) from error


def _load(model: nn.Module, weights: dict[str, Tensor], config: ModelConfig) -> None:
    """Load all but what is new, strictly: a backbone that is loaded in part learns badly and says nothing."""
    fresh = new_entries(model)
    wanted = set(model.state_dict()) - fresh
    body = {
        name: value.float() if value.is_floating_point() else value
        for name, value in weights.items()
        if name in wanted or (name.split(".")[0] not in HEADS and not AUXILIARY.match(name))
    }
    missing, unknown = sorted(wanted - set(body)), sorted(set(body) - wanted)
    if missing or unknown:
        raise WeightsError(
            f"the weights {config.weights} do not fit {config.architecture}: {len(missing)} of {len(wanted)} "
            f"entries are missing (such as {(missing or ['none'])[0]}), {len(unknown)} are unknown "
            f"(such as {(unknown or ['none'])[0]}); give weights of this architecture."
        )
    try:
        model.load_state_dict(body, strict=False)
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise WeightsError(f"the weights {config.weights} do not fit {config.architecture}: {detail}") from error


def new_entries(model: nn.Module) -> set[str]:
    """The entries of the state dict that a new head brings: those of its last weighted layer."""
    name = head_name(model)
    layers = dict(getattr(model, name).named_children())
    last = next(key for key, layer in reversed(layers.items()) if isinstance(layer, nn.Linear | nn.Conv2d))
    return {entry for entry in model.state_dict() if entry.startswith(f"{name}.{last}.")}


def count_stages(config: ModelConfig) -> int:
    """How many stages the backbone has, without the head."""
    return len(stages(skeleton(config.architecture, 2, config.dropout, preprocessing(config).crop_px))) - 1
