"""Stages: the ordered parts of a backbone, named as torchvision names its modules."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

HEADS = ("fc", "classifier", "head", "heads")
NESTED_STAGES = ("features", "layers", "blocks", "trunk_output")  # their children are the stages


def head_name(model: nn.Module) -> str:
    """The name of the classifier module."""
    return next(name for name, _ in model.named_children() if name in HEADS)


def stage_of(name: str) -> str:
    """The stage of a parameter or module by its dotted name: ``layer1``, ``features.0``, ``head`` …"""
    parts = name.split(".")
    if parts[0] in HEADS:
        return "head"
    if parts[0] == "encoder" and len(parts) > 1 and parts[1] in ("layers", "ln"):
        return ".".join(parts[: 3 if parts[1] == "layers" else 2])
    if parts[0] in ("class_token", "conv_proj", "encoder"):
        return "embedding"  # of a ViT: class token, patch and position embeddings, combined before its first layer
    return ".".join(parts[:2]) if parts[0] in NESTED_STAGES else parts[0]


def stage_names(model: nn.Module) -> list[str]:
    """The stages that have parameters, from input to output; the head is last."""
    names = dict.fromkeys(stage_of(name) for name, _ in model.named_parameters())
    return [name for name in names if name != "head"] + ["head"]


def named_stage_parameters(model: nn.Module, stage: str) -> Iterator[tuple[str, nn.Parameter]]:
    """The named parameters of one stage."""
    return ((name, value) for name, value in model.named_parameters() if stage_of(name) == stage)
