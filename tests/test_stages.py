"""Stages are named in the order in which a forward pass runs them."""

from __future__ import annotations

from functools import partial
from itertools import groupby

import pytest
import torch
from torchvision import models

from graft.config.parameters import ModelConfig
from graft.models.backbones import meta_model, preprocessing_for
from graft.models.stages import stage_names, stage_of


@pytest.mark.parametrize("architecture", models.list_models(module=models))
def test_stages_run_in_order_and_receive_gradients(architecture: str) -> None:
    config = ModelConfig(architecture=architecture, weights="none")
    model = meta_model(config)
    order: list[str] = []
    for name, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)) and name:
            module.register_forward_pre_hook(partial(_record, order, stage_of(name)))
    px = preprocessing_for(config).crop_px
    logits = model(torch.empty(2, 3, px, px, device="meta"))
    assert logits.shape == (2, 2)
    logits.sum().backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []
    assert [stage for stage, _ in groupby(order)] == stage_names(model)


def _record(order: list[str], stage: str, *_: object) -> None:
    order.append(stage)


def test_stages_of_vit_begin_with_the_embedding_and_end_with_the_last_norm() -> None:
    names = stage_names(meta_model(ModelConfig(architecture="vit_b_32", weights="none")))
    assert names[:2] == ["embedding", "encoder.layers.encoder_layer_0"]
    assert names[-3:] == ["encoder.layers.encoder_layer_11", "encoder.ln", "head"]
