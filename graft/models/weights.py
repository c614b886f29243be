"""Reads pretrained weights and loads them into a model."""

from __future__ import annotations

import argparse
import hashlib
import pickle
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torch import nn
from torchvision import models

from graft.config.parameters import ModelConfig
from graft.config.strict_model import StrictModel
from graft.errors import WeightsError, error_summary, printable
from graft.models.state_dicts import (
    find_source,
    is_batch_count,
    missing_entries_error,
    shape_error,
    unexpected_entries_error,
    value_error,
)

LETTERS_PATH = Path(__file__).parents[1] / "assets" / "letters_mobilenet_v3_small.safetensors"
LETTERS_ARCHITECTURE = "mobilenet_v3_small"
LICENCES = {
    "letters": "Apache-2.0 (pretrained by Graft on rendered letters)",
    "none": "no pretrained weights",
}
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt")
MAX_LISTED_NAMES = 10


@dataclass(frozen=True)
class LoadReport:
    """The names of the loaded, missing and unused entries of a state dict; the unused ones as in the file.

    The state dict was in the file under the keys ``wrapper`` (dotted), with ``prefix`` before each name.
    """

    loaded: list[str]
    missing: list[str]
    unused: list[str]
    wrapper: str
    prefix: str

    def describe(self) -> str:
        """The report on one line; more than ten names are grouped by their beginnings."""
        origin = [f"under {self.wrapper!r}"] * bool(self.wrapper) + [f"named {self.prefix}*"] * bool(self.prefix)
        return printable(
            f"loaded {len(self.loaded)} of {len(self.loaded) + len(self.missing)} entries of the backbone"
            f"{' (' + ', '.join(origin) + ')' if origin else ''}; missing: {_listed(self.missing)}; "
            f"unused: {_listed(self.unused)}"
        )


class FingerprintedModel(StrictModel):
    """A model config with the fingerprint of its weights, so that caches notice a file replaced under the same name."""

    config: ModelConfig
    weights_fingerprint: str


def fingerprint_model(config: ModelConfig) -> FingerprintedModel:
    """Fingerprint a model's weights: by the SHA-256 of a file, by the URL of torchvision's."""
    path = LETTERS_PATH if config.weights == "letters" else Path(config.weights)
    if path.is_file():
        with path.open("rb") as file:
            return FingerprintedModel(
                config=config, weights_fingerprint=hashlib.file_digest(file, "sha256").hexdigest()
            )
    if config.weights == "none":
        return FingerprintedModel(config=config, weights_fingerprint="none")
    weights = models.get_model_weights(config.architecture)[config.weights]
    return FingerprintedModel(config=config, weights_fingerprint=str(weights.url))


def weights_licence(config: ModelConfig) -> str:
    """The licence of the pretrained weights, as far as known."""
    if config.weights in LICENCES:
        return LICENCES[config.weights]
    if Path(config.weights).suffix:
        return f"as of {Path(config.weights).name}"
    weights = models.get_model_weights(config.architecture)[config.weights]
    default = "BSD-3-Clause (torchvision), trained on ImageNet-1k: its terms apply"
    return str(weights.meta.get("license", default))


def load_pretrained(model: nn.Module, config: ModelConfig) -> LoadReport:
    """Load pretrained weights into all of a model but its new head.

    The state dict may be nested in the file under any keys, and its names may have any dotted prefix, as
    self-supervised training writes them (MoCo, DINO, MAE). A ViT may have timm's names. Raises ``WeightsError`` if
    the weights cannot be read, if less than 95 % of the backbone's entries are present, if one has another shape,
    another kind of dtype or a value that is not finite, or if a module of the backbone has entries that the model
    lacks.
    """
    file = read_state_dict(config)
    state, head = model.state_dict(), head_entries(model)
    requested = {name: value.shape for name, value in state.items() if name not in head}
    source = find_source(file, requested)
    keys = source.keys_by_name(requested)
    modules = {name.split(".")[0] for name in requested} - {name.split(".")[0] for name in head}
    error = (
        missing_entries_error(keys, requested)
        or shape_error(source, keys, requested)
        or unexpected_entries_error(source, keys, modules)
        or value_error(source, keys, state)
    )
    if error:
        raise WeightsError(f"the weights {config.weights} do not fit {config.architecture}: {printable(error)}.")
    model.load_state_dict({name: source.tensors[key] for name, key in keys.items()}, strict=False)
    missing = [name for name in requested if name not in keys and not is_batch_count(name)]
    unused = source.unused_keys(file, set(keys.values()))
    return LoadReport(list(keys), missing, unused, ".".join(source.wrapper), source.prefix)


def head_entries(model: nn.Module) -> set[str]:
    """The state dict's entries of the new head's weighted layer, which is the model's last."""
    weighted = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    return {entry for entry in model.state_dict() if entry.startswith(f"{weighted[-1]}.")}


def read_state_dict(config: ModelConfig) -> dict[str, Any]:
    """Read pretrained weights: bundled ones, torchvision's, or a file's whole content; code in it never runs."""
    if config.weights == "letters":
        return dict(load_file(LETTERS_PATH))
    path = Path(config.weights)
    if path.suffix:
        return _read_file(path)
    weights = models.get_model_weights(config.architecture)[config.weights]
    try:
        return dict(weights.get_state_dict(progress=True, check_hash=True))
    except (URLError, OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise WeightsError(
            f"the weights {weights} could not be downloaded ({error}); fetch {weights.url} where the network "
            f"allows and place it in {folder}, or give the path of a file in model.weights."
        ) from error


def _read_file(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with torch.serialization.safe_globals([argparse.Namespace]):  # MAE and DINO save their options as one
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # its message recommends to run the code in the file
        raise WeightsError(
            f"{path}: holds objects other than tensors, whose code is never run (a whole model, or not a PyTorch "
            f"file); save only its state_dict() and give that."
        ) from error
    # Both readers raise many types for damaged files and for other formats.
    except Exception as error:
        reason = error_summary(error).split(". ")[0] if path.stat().st_size else "it is empty"
        raise WeightsError(f"{path}: cannot be read as weights ({reason}); give a state dict.") from error
    if not isinstance(loaded, dict):
        raise WeightsError(f"{path}: holds a {type(loaded).__name__}; give a state dict.")
    return loaded


def _listed(names: list[str]) -> str:
    if len(names) <= MAX_LISTED_NAMES:
        return ", ".join(names) or "none"
    prefixes = Counter(".".join(part for part in name.split(".")[:2] if not part.isdecimal()) for name in names)
    groups = [f"{count} {prefix}*" for prefix, count in prefixes.most_common(MAX_LISTED_NAMES)]
    return f"{len(names)} ({', '.join(groups)}{', …' if len(prefixes) > MAX_LISTED_NAMES else ''})"
