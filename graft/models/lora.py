"""LoRA: low-rank adapters that train in place of the unfrozen weights, and are merged into them afterwards.

The adapters are peft's, an optional dependency (``graft[lora]``) that only this module imports, when it needs it.
"""

from __future__ import annotations

import re
from types import ModuleType

import torch
from torch import nn

from graft.config.training import LoraConfig
from graft.errors import ConfigError, TrainingError
from graft.models.stages import stage_of
from graft.seeds import seeded


def inject(model: nn.Module, stages: list[str], config: LoraConfig, seed: int) -> None:
    """Add an adapter to each adaptable layer of these stages, in place.

    A layer of weight W ``[out, in, ...]`` then computes ``W x + alpha / rank * B A x``, with A ``[rank, in, ...]``
    random and B ``[out, rank, ...]`` zero, so that outputs do not change at first. A parameter ``stem.weight`` becomes
    ``stem.base_layer.weight`` beside ``stem.lora_A.default.weight`` and ``stem.lora_B.default.weight``. The same
    model, arguments and seed give the same adapters. The head never gets one. ``graft.models.freezing`` decides
    what is trainable.

    Raises ``ConfigError`` without peft, and ``TrainingError`` if no layer of these stages can be adapted.
    Source: Hu et al. 2021, LoRA, https://arxiv.org/abs/2106.09685.
    """
    peft = import_peft()
    names = adaptable(model, stages)
    if not names:
        listed = ", ".join(stage for stage in stages if stage != "head") or "none"
        raise TrainingError(
            f"training.fine_tune.lora finds no layer to adapt in the unfrozen stages ({listed}); unfreeze more by "
            f"training.fine_tune.unfrozen_stages, or leave lora out."
        )
    # A regular expression must match the whole name; in a list, ResNet's conv1 would also match layer1.0.conv1.
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules="|".join(map(re.escape, names)),
    )
    with seeded(seed):
        peft.inject_adapter_in_model(settings, model)


def adaptable(model: nn.Module, stages: list[str]) -> list[str]:
    """The names of the layers of these stages that can have an adapter; the head has none.

    These are linear layers and 2-d convolutions whose ``forward`` runs. Excluded are

    - grouped and depthwise convolutions, whose adapters peft cannot merge;
    - dilated convolutions and those not padded with zeros, since peft's adapters ignore dilation and padding mode;
    - the attention of ViT (``nn.MultiheadAttention``) and of Swin, which read the weights of their layers without
      calling them, so that an adapter would never run. In their blocks only the MLP is adapted.
    """
    called = _called(model)
    return [
        name
        for name, layer in model.named_modules()
        if layer in called and stage_of(name) in stages and stage_of(name) != "head" and _supported(layer)
    ]


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter."""
    return not {"lora_A", "lora_B"}.isdisjoint(name.split("."))


def merge(model: nn.Module) -> None:
    """Merge adapters into the weights that they adapt, in place: the plain architecture, with the same outputs.

    Outputs agree up to rounding. A model without adapters is not changed. Raises ``TrainingError`` if an adapter is
    not finite; the model is then partly merged.
    """
    if not any(is_adapter(name) for name, _ in model.named_parameters()):
        return
    import_peft()
    from peft.tuners.lora import LoraLayer

    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, LoraLayer)]
    for name, layer in layers:
        try:
            with torch.no_grad():
                layer.merge(safe_merge=True)
        except ValueError as error:
            raise TrainingError(
                f"the adapter of {name} is not finite after training; lower training.fine_tune.learning_rate "
                f"or training.fine_tune.lora.alpha."
            ) from error
        model.set_submodule(name, layer.get_base_layer())
    del model.peft_config


def _supported(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    return isinstance(layer, nn.Linear)


def _called(model: nn.Module) -> set[nn.Module]:
    """The modules whose ``forward`` runs in a forward pass of the model, which is not changed."""
    called: set[nn.Module] = set()
    hooks = [module.register_forward_pre_hook(lambda module, _: called.add(module)) for module in model.modules()]
    tensors = [*model.named_parameters(), *model.named_buffers()]
    side = int(model.image_size)  # type: ignore[arg-type]
    images = torch.zeros(2, 3, side, side, device="meta")  # shapes only; batch norms in train mode need two
    try:
        with torch.no_grad():
            torch.func.functional_call(model, {name: value.to("meta") for name, value in tensors}, (images,))
    finally:
        for hook in hooks:
            hook.remove()
    return called


def import_peft() -> ModuleType:
    """The package; raises ``ConfigError`` if it is not installed."""
    try:
        import peft
    except ImportError as error:
        raise ConfigError(
            "training.fine_tune.lora needs the package peft, which cannot be imported here; "
            "run pip install 'graft[lora]', or leave lora out."
        ) from error
    module: ModuleType = peft
    return module
