"""Which entries of a file of weights are a model's, whatever they are wrapped in and however they are named."""

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

ENOUGH = 0.95
# DINO's authors publish the teacher, MoCo's the encoder that is trained: where both fit, these stand back.
SECOND_CHOICE = {"student", "encoder_k", "momentum_encoder"}
LAYER = r"encoder.layers.encoder_layer_\1."
RENAMED = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)", r"\1"),  # torchvision's own files of DenseNet …
        (r"^(encoder\..*\.mlp)\.linear_1\.", r"\1.0."),  # … and of ViT have names that it renames as it loads
        (r"^(encoder\..*\.mlp)\.linear_2\.", r"\1.3."),
        (r"^cls_token$", "class_token"),  # from here on timm's names of ViT, as MAE, MoCo v3 and DINO use them
        (r"^pos_embed$", "encoder.pos_embedding"),
        (r"^patch_embed\.proj\.", "conv_proj."),
        (r"^norm\.", "encoder.ln."),
        (r"^blocks\.(\d+)\.norm([12])\.", LAYER + r"ln_\2."),
        (r"^blocks\.(\d+)\.attn\.qkv\.", LAYER + "self_attention.in_proj_"),
        (r"^blocks\.(\d+)\.attn\.proj\.", LAYER + "self_attention.out_proj."),
        (r"^blocks\.(\d+)\.mlp\.fc1\.", LAYER + "mlp.0."),
        (r"^blocks\.(\d+)\.mlp\.fc2\.", LAYER + "mlp.3."),
        (r"^blocks\.(\d+)\.", LAYER),
    )
)


@dataclass(frozen=True)
class Source:
    """One way to read a file: the tensors under the keys ``wrapper``, their names without ``prefix``."""

    wrapper: tuple[str, ...]
    prefix: str
    tensors: dict[str, Tensor]

    def inner(self) -> Iterator[tuple[str, str]]:
        """The keys that have the prefix, each with what follows it."""
        return ((key, key[len(self.prefix) :]) for key in self.tensors if key.startswith(self.prefix))

    def keys_by_name(self, wanted: Shapes) -> dict[str, str]:
        """The keys that the model knows, by the model's names in the model's order."""
        found = {own_name(inner, wanted): key for key, inner in self.inner()}
        return {name: found[name] for name in wanted if name in found}

    def left_over(self, file: dict[str, Any], used: set[str]) -> list[str]:
        """The file's keys that were not used, on the way to the tensors and among them."""
        names, level = [], file
        for key in self.wrapper:
            names += [str(other) for other in level if other != key]
            level = level[key]
        return [*(str(key) for key in level if key not in used), *names]


def find_source(file: dict[str, Any], wanted: Shapes) -> Source:
    """The wrapper and prefix under which most entries fit by name and shape."""
    best, most = Source((), "", {}), (0, False)
    for wrapper, tensors in _dicts_of_tensors(file):
        for prefix, fitting in _fitting(tensors, wanted).items():
            rank = (fitting, SECOND_CHOICE.isdisjoint([*wrapper, *prefix.split(".")]))
            if rank > most:
                best, most = Source(wrapper, prefix, tensors), rank
    return best


def own_name(name: str, wanted: Shapes) -> str:
    """The model's name of an entry; the name as it is where the model knows it by none."""
    return name if name in wanted or (new := renamed(name)) not in wanted else new


def renamed(name: str) -> str:
    """An older or foreign name as torchvision has it today."""
    for pattern, new in RENAMED:
        name = pattern.sub(new, name)
    return name


def _dicts_of_tensors(file: dict[Any, Any]) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """All dicts of a file that hold tensors, each once: a pickled dict may hold itself."""
    seen = set()
    waiting: list[tuple[tuple[str, ...], dict[Any, Any]]] = [((), file)]
    while waiting:
        path, level = waiting.pop()
        if id(level) in seen:
            continue
        seen.add(id(level))
        named = {key: value for key, value in level.items() if isinstance(key, str)}
        yield path, {key: value for key, value in named.items() if isinstance(value, Tensor)}
        inner = [((*path, key), value) for key, value in named.items() if isinstance(value, dict)]
        waiting += reversed(inner)


def _fitting(tensors: dict[str, Tensor], wanted: Shapes) -> Counter[str]:
    """By prefix, how many entries fit."""
    counts: Counter[str] = Counter()
    for key, value in tensors.items():
        for start in (0, *(dot.end() for dot in re.finditer(r"\.", key))):
            counts[key[:start]] += wanted.get(own_name(key[start:], wanted)) == value.shape
    return counts


def lack(keys: dict[str, str], wanted: Shapes) -> str:
    """What is wrong where too few entries are there; empty where enough are."""
    counted = [name for name in wanted if not is_count(name)]
    missing = [name for name in counted if name not in keys]
    if len(missing) <= (1 - ENOUGH) * len(counted):
        return ""
    return (
        f"{len(missing)} of {len(counted)} entries are missing (such as {missing[0]}); "
        f"give weights of this architecture"
    )


def misfit(source: Source, keys: dict[str, str], wanted: Shapes) -> str:
    """What is wrong where an entry has another shape; empty where none has."""
    for name, key in keys.items():
        theirs, ours = source.tensors[key].shape, wanted[name]
        if theirs != ours:
            advice = "give weights of this architecture"
            if name == "encoder.pos_embedding":
                trained_px = math.isqrt(math.prod(theirs[1:-1])) * wanted["conv_proj.weight"][-1]
                advice = f"model.crop_px must be that of the weights ({trained_px})"
            return f"{name} is {list(theirs)} in the file and {list(ours)} in the model; {advice}"
    return ""


def surplus(source: Source, keys: dict[str, str], body: set[str]) -> str:
    """What is wrong where the modules of the model have entries that it lacks; empty where they have none.

    A deeper network's file holds all of a shallower one's; loaded so, it would compute something else.
    """
    used = set(keys.values())
    more = [
        key
        for key, inner in source.inner()
        if key not in used and {inner.split(".")[0], renamed(inner).split(".")[0]} & body and not is_count(key)
    ]
    if not more:
        return ""
    return f"{len(more)} entries have no place in the model (such as {more[0]}); give weights of this architecture"


def nonsense(source: Source, keys: dict[str, str], ours: dict[str, Tensor]) -> str:
    """What is wrong where an entry holds what the model cannot compute with; empty where none does."""
    for name, key in keys.items():
        value = source.tensors[key]
        kind, own = (str(each.dtype).removeprefix("torch.") for each in (value, ours[name]))
        if value.layout is not torch.strided or value.is_quantized or value.is_meta:
            return f"{name} is no plain tensor but {'without values' if value.is_meta else kind}; save it dense"
        if not is_count(name) and value.is_floating_point() != ours[name].is_floating_point():
            return f"{name} is {kind} in the file and {own} in the model; save it as that"
        if value.is_floating_point() and not value.float().isfinite().all():
            return f"{name} holds values that are not finite; take a file from before its training diverged"
    return ""


def is_count(name: str) -> bool:
    """Whether an entry is a batch norm's count of batches, which old files lack and nothing here reads."""
    return name.endswith("num_batches_tracked")
