"""Finds a model's entries in a file of weights, under any nesting, prefix or known renaming."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Shapes = dict[str, torch.Size]

MIN_LOADED_FRACTION = 0.95
# DINO's authors evaluate the teacher, MoCo's the encoder trained by gradients: if both fit, these are not loaded.
LESS_PREFERRED = {"student", "encoder_k", "momentum_encoder"}
VIT_LAYER = r"encoder.layers.encoder_layer_\1."
RENAMES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        # torchvision's own files of DenseNet and ViT have old names, which it renames while loading.
        (r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)", r"\1"),
        (r"^(encoder\..*\.mlp)\.linear_1\.", r"\1.0."),
        (r"^(encoder\..*\.mlp)\.linear_2\.", r"\1.3."),
        # timm's names of ViT, as in files of MAE, MoCo v3 and DINO.
        (r"^cls_token$", "class_token"),
        (r"^pos_embed$", "encoder.pos_embedding"),
        (r"^patch_embed\.proj\.", "conv_proj."),
        (r"^norm\.", "encoder.ln."),
        (r"^blocks\.(\d+)\.norm([12])\.", VIT_LAYER + r"ln_\2."),
        (r"^blocks\.(\d+)\.attn\.qkv\.", VIT_LAYER + "self_attention.in_proj_"),
        (r"^blocks\.(\d+)\.attn\.proj\.", VIT_LAYER + "self_attention.out_proj."),
        (r"^blocks\.(\d+)\.mlp\.fc1\.", VIT_LAYER + "mlp.0."),
        (r"^blocks\.(\d+)\.mlp\.fc2\.", VIT_LAYER + "mlp.3."),
        (r"^blocks\.(\d+)\.", VIT_LAYER),
    )
)


@dataclass(frozen=True)
class StateDictSource:
    """A dict of tensors in a file: nested under the keys ``wrapper``, its names starting with ``prefix``."""

    wrapper: tuple[str, ...]
    prefix: str
    tensors: dict[str, Tensor]

    def without_prefix(self) -> Iterator[tuple[str, str]]:
        """Each key that has the prefix, and the key without it."""
        return ((key, key[len(self.prefix) :]) for key in self.tensors if key.startswith(self.prefix))

    def keys_by_name(self, requested: Shapes) -> dict[str, str]:
        """The keys of the entries that the model has, by the model's names and in its order."""
        keys = {model_name(name, requested): key for key, name in self.without_prefix()}
        return {name: keys[name] for name in requested if name in keys}

    def unused_keys(self, file: dict[str, Any], used: set[str]) -> list[str]:
        """All keys not in ``used``: siblings of the tensors, then of each key of ``wrapper``."""
        beside_wrapper, level = [], file
        for key in self.wrapper:
            beside_wrapper += [str(other) for other in level if other != key]
            level = level[key]
        return [*(str(key) for key in level if key not in used), *beside_wrapper]


def find_source(file: dict[str, Any], requested: Shapes) -> StateDictSource:
    """The wrapper and prefix with which most entries match a requested one in name and shape."""
    best, best_rank = StateDictSource((), "", {}), (0, False)
    for wrapper, tensors in _dicts_of_tensors(file):
        for prefix, matches in _matches_by_prefix(tensors, requested).items():
            rank = (matches, LESS_PREFERRED.isdisjoint([*wrapper, *prefix.split(".")]))
            if rank > best_rank:
                best, best_rank = StateDictSource(wrapper, prefix, tensors), rank
    return best


def model_name(name: str, requested: Shapes) -> str:
    """The model's name of an entry; ``name`` itself if the model has no such entry."""
    return name if name in requested or (renamed := torchvision_name(name)) not in requested else renamed


def torchvision_name(name: str) -> str:
    """The name that torchvision gives today to an entry with an old name or one of timm's."""
    for pattern, replacement in RENAMES:
        name = pattern.sub(replacement, name)
    return name


def _dicts_of_tensors(file: dict[Any, Any]) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """The tensors of each nested dict, with the keys that lead to it. Each dict once: a pickled one may hold itself."""
    seen = set()
    pending: list[tuple[tuple[str, ...], dict[Any, Any]]] = [((), file)]
    while pending:
        path, level = pending.pop()
        if id(level) in seen:
            continue
        seen.add(id(level))
        named = {key: value for key, value in level.items() if isinstance(key, str)}
        yield path, {key: value for key, value in named.items() if isinstance(value, Tensor)}
        nested = [((*path, key), value) for key, value in named.items() if isinstance(value, dict)]
        pending += reversed(nested)


def _matches_by_prefix(tensors: dict[str, Tensor], requested: Shapes) -> Counter[str]:
    """For each dotted prefix, the number of entries that match a requested one without it."""
    counts: Counter[str] = Counter()
    for key, value in tensors.items():
        for start in (0, *(dot.end() for dot in re.finditer(r"\.", key))):
            counts[key[:start]] += requested.get(model_name(key[start:], requested)) == value.shape
    return counts


def missing_entries_error(keys: dict[str, str], requested: Shapes) -> str | None:
    """An error message if less than ``MIN_LOADED_FRACTION`` of the requested entries is present."""
    counted = [name for name in requested if not is_batch_count(name)]
    missing = [name for name in counted if name not in keys]
    if len(missing) <= (1 - MIN_LOADED_FRACTION) * len(counted):
        return None
    return (
        f"{len(missing)} of {len(counted)} entries are missing (such as {missing[0]}); "
        f"give weights of this architecture"
    )


def shape_error(source: StateDictSource, keys: dict[str, str], requested: Shapes) -> str | None:
    """An error message if an entry has another shape than in the model."""
    for name, key in keys.items():
        file_shape, model_shape = source.tensors[key].shape, requested[name]
        if file_shape != model_shape:
            hint = "give weights of this architecture"
            if name == "encoder.pos_embedding":
                trained_px = math.isqrt(math.prod(file_shape[1:-1])) * requested["conv_proj.weight"][-1]
                hint = f"model.crop_px must be that of the weights ({trained_px})"
            return f"{name} is {list(file_shape)} in the file and {list(model_shape)} in the model; {hint}"
    return None


def unexpected_entries_error(source: StateDictSource, keys: dict[str, str], modules: set[str]) -> str | None:
    """An error message if the file has entries of these modules that the model lacks.

    A deeper network's file has all entries of a shallower one, which would compute wrong features with them.
    """
    used = set(keys.values())
    unexpected = [
        key
        for key, name in source.without_prefix()
        if key not in used
        and {name.split(".")[0], torchvision_name(name).split(".")[0]} & modules
        and not is_batch_count(key)
    ]
    if not unexpected:
        return None
    return (
        f"{len(unexpected)} entries are not in the model (such as {unexpected[0]}); give weights of this architecture"
    )


def value_error(source: StateDictSource, keys: dict[str, str], state: dict[str, Tensor]) -> str | None:
    """An error message if an entry is not dense, not of the model's kind of dtype, or not finite."""
    for name, key in keys.items():
        value = source.tensors[key]
        dtype, model_dtype = (str(tensor.dtype).removeprefix("torch.") for tensor in (value, state[name]))
        if value.layout is not torch.strided or value.is_quantized or value.is_meta:
            return f"{name} is not a plain tensor but {'without values' if value.is_meta else dtype}; save it dense"
        if not is_batch_count(name) and value.is_floating_point() != state[name].is_floating_point():
            return f"{name} is {dtype} in the file and {model_dtype} in the model; save it as that"
        if value.is_floating_point() and not value.float().isfinite().all():
            return f"{name} holds values that are not finite; take a file from before its training diverged"
    return None


def is_batch_count(name: str) -> bool:
    """Whether an entry is a batch norm's ``num_batches_tracked``, which old files lack and no computation reads."""
    return name.endswith("num_batches_tracked")
