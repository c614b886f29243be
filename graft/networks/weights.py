"""Pretrained weights: where they come from, and what of them was loaded."""

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

from graft.config import ModelConfig
from graft.errors import WeightsError, said, shown
from graft.networks.state_dicts import find_source, is_count, lack, misfit, nonsense, surplus
from graft.section import Section

LETTERS = Path(__file__).parents[1] / "assets" / "letters_mobilenet_v3_small.safetensors"
LETTERS_ARCHITECTURE = "mobilenet_v3_small"
LICENCES = {
    "letters": "Apache-2.0 (pretrained by Graft on rendered letters)",
    "none": "no pretrained weights",
}
FILES = (".safetensors", ".pth", ".pt")
FEW = 10


@dataclass(frozen=True)
class LoadReport:
    """What was loaded and missing, by the model's names, and what was left over, by the file's.

    The entries stood under the keys ``wrapper`` (dotted), and ``prefix`` was before each of their names.
    """

    loaded: list[str]
    missing: list[str]
    left_over: list[str]
    wrapper: str
    prefix: str

    def in_words(self) -> str:
        """The report on one line; of more than ten names, their beginnings and how many there are of each."""
        places = [f"under {self.wrapper!r}"] * bool(self.wrapper) + [f"named {self.prefix}*"] * bool(self.prefix)
        return shown(
            f"loaded {len(self.loaded)} of {len(self.loaded) + len(self.missing)} entries of the backbone"
            f"{' (' + ', '.join(places) + ')' if places else ''}; missing: {_listed(self.missing)}; "
            f"left over: {_listed(self.left_over)}"
        )


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


def licence(config: ModelConfig) -> str:
    """The licence of the pretrained weights, as far as it is known."""
    if config.weights in LICENCES:
        return LICENCES[config.weights]
    if Path(config.weights).suffix:
        return f"as of {Path(config.weights).name}"
    named = models.get_model_weights(config.architecture)[config.weights]
    own = "BSD-3-Clause (torchvision), trained on ImageNet-1k: its terms apply"
    return str(named.meta.get("license", own))


def load(model: nn.Module, config: ModelConfig) -> LoadReport:
    """Load pretrained weights into all of a model but its new head.

    A file may hold them under any key and with any dotted prefix, as self-supervised training leaves them
    (MoCo, DINO, MAE), and a ViT by timm's names. Raises ``WeightsError`` where they are not to be had, where
    less than 95 % of the entries are there, where one has another shape or holds no numbers of the model's kind,
    and where a module has more of them.
    """
    file = state_dict(config)
    fresh = new_entries(model)
    ours = model.state_dict()
    wanted = {name: value.shape for name, value in ours.items() if name not in fresh}
    source = find_source(file, wanted)
    keys = source.keys_by_name(wanted)
    body = {name.split(".")[0] for name in wanted} - {name.split(".")[0] for name in fresh}
    reasons = (
        lack(keys, wanted), misfit(source, keys, wanted), surplus(source, keys, body), nonsense(source, keys, ours)
    )  # fmt: skip
    for reason in reasons:
        if reason:
            raise WeightsError(f"the weights {config.weights} do not fit {config.architecture}: {shown(reason)}.")
    model.load_state_dict({name: source.tensors[key] for name, key in keys.items()}, strict=False)
    missing = [name for name in wanted if name not in keys and not is_count(name)]
    left_over = source.left_over(file, set(keys.values()))
    return LoadReport(list(keys), missing, left_over, ".".join(source.wrapper), source.prefix)


def new_entries(model: nn.Module) -> set[str]:
    """The entries of the state dict that a new head brings: those of the model's last weighted layer."""
    weighted = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    return {entry for entry in model.state_dict() if entry.startswith(f"{weighted[-1]}.")}


def state_dict(config: ModelConfig) -> dict[str, Any]:
    """Read pretrained weights, nested as they are: bundled, from a file (no code in it runs), or torchvision's."""
    if config.weights == "letters":
        return dict(load_file(LETTERS))
    path = Path(config.weights)
    if path.suffix:
        return _read(path)
    weights = models.get_model_weights(config.architecture)[config.weights]
    try:
        return dict(weights.get_state_dict(progress=True, check_hash=True))
    except (URLError, OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise WeightsError(
            f"the weights {weights} could not be downloaded ({error}); fetch {weights.url} where the network "
            f"allows and place it in {folder}, or give the path of a file in model.weights."
        ) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with torch.serialization.safe_globals([argparse.Namespace]):  # the options that MAE and DINO save beside
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # its message advises to run the code that is in the file
        raise WeightsError(
            f"{path}: holds something other than tensors, which is never run (a whole model, or no file of "
            f"PyTorch's); save its state_dict() alone and give that."
        ) from error
    # Both readers raise many types on damaged or foreign files; each of them means the same to us.
    except Exception as error:
        reason = said(error).split(". ")[0] if path.stat().st_size else "it is empty"
        raise WeightsError(f"{path}: cannot be read as weights ({reason}); give a state dict.") from error
    if not isinstance(loaded, dict):
        raise WeightsError(f"{path}: holds a {type(loaded).__name__}; give a state dict.")
    return loaded


def _listed(names: list[str]) -> str:
    if len(names) <= FEW:
        return ", ".join(names) or "none"
    starts = Counter(".".join(part for part in name.split(".")[:2] if not part.isdecimal()) for name in names)
    shares = [f"{count} {start}*" for start, count in starts.most_common(FEW)]
    return f"{len(names)} ({', '.join(shares)}{', …' if len(starts) > FEW else ''})"
