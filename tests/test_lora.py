"""LoRA adapters train in place of the unfrozen weights, and merge into them."""

from __future__ import annotations

import copy
import sys
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from graft.config.training import LoraConfig
from graft.errors import ConfigError, TrainingError
from graft.models.backbones import create_model
from graft.models.freezing import freeze_all_but
from graft.models.lora import adaptable, inject, is_adapter, merge
from graft.models.stages import stage_of

UNFROZEN = {
    "mobilenet_v3_small": ["features.11", "features.12", "head"],
    "resnet18": ["layer3", "layer4", "head"],
    "vit": ["encoder.layers.encoder_layer_1", "encoder.ln", "head"],
    "swin_t": ["features.7", "norm", "head"],
    "convnext_tiny": ["features.7", "head"],
}
CONFIG = LoraConfig(rank=4)
every_architecture = pytest.mark.parametrize("architecture", UNFROZEN)


class Small(nn.Module):
    image_size = 32

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.Conv2d(4, 4, 3, groups=4),
            nn.Conv2d(4, 4, 3, dilation=2),
            nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
            nn.Conv2d(4, 4, 1),
        )
        self.fc = nn.Linear(4, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.as_tensor(self.fc(self.stem(pixels).mean((2, 3))))


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@cache
def original(architecture: str) -> nn.Module:
    """Random weights under which signals pass through all layers, in eval mode."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model: nn.Module = (
        models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=3)
        if architecture == "vit"
        else models.get_model(architecture, weights=None, num_classes=3)
    )
    model.image_size = 32  # type: ignore[assignment]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    for name, parameter in model.named_parameters():
        if name.endswith("layer_scale"):
            nn.init.ones_(parameter)
        if name == "heads.head.weight":  # initially zero in a ViT
            nn.init.normal_(parameter)
    model(images(16))
    return model.eval()


def build_copy(architecture: str) -> nn.Module:
    return copy.deepcopy(original(architecture))


def injected(architecture: str, config: LoraConfig = CONFIG, seed: int = 1) -> nn.Module:
    model = build_copy(architecture)
    inject(model, UNFROZEN[architecture], config, seed)
    freeze_all_but(model, len(UNFROZEN[architecture]) - 1)
    return model


def randomize_adapters(model: nn.Module) -> None:
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if is_adapter(name):
                parameter.normal_(std=0.1)


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return torch.as_tensor(model(images()))


@every_architecture
def test_inject_adds_adapters_to_given_stages_and_keeps_outputs(architecture: str) -> None:
    model, plain = injected(architecture), build_copy(architecture)
    state = model.state_dict()
    assert {stage_of(name) for name in state if is_adapter(name)} == set(UNFROZEN[architecture]) - {
        "encoder.ln", "norm", "head",
    }  # fmt: skip
    base = {name.replace("base_layer.", ""): value.numpy() for name, value in state.items() if not is_adapter(name)}
    assert base.keys() == plain.state_dict().keys()
    assert all((base[name] == value.numpy()).all() for name, value in plain.state_dict().items())
    assert torch.equal(outputs(model), outputs(plain))


@every_architecture
def test_training_changes_adapters_and_head_only(architecture: str) -> None:
    model = injected(architecture)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name in before if is_adapter(name) or stage_of(name) == "head"}
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=1e-2)
    for _ in range(2):  # the first step does not change any A, since its B is zero
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images()), torch.tensor([0, 1])).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == trainable


@every_architecture
def test_merge_restores_the_architecture_and_keeps_outputs(architecture: str) -> None:
    model, plain = injected(architecture), build_copy(architecture)
    randomize_adapters(model)
    adapted = outputs(model)
    merge(model)
    assert (adapted - outputs(plain)).abs().max() > 1e-2
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [type(module) for module in model.modules()] == [type(module) for module in plain.modules()]
    assert torch.allclose(outputs(model), adapted, atol=1e-4, rtol=1e-4)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(outputs(plain), outputs(model))


def test_merge_does_not_change_a_plain_model() -> None:
    model = build_copy("resnet18")
    merge(model)
    assert torch.equal(outputs(model), outputs(original("resnet18")))


def test_model_with_adapters_can_be_copied() -> None:
    model = injected("vit")
    randomize_adapters(model)
    copied = copy.deepcopy(model)
    assert torch.equal(outputs(copied), outputs(model))
    merge(copied)
    assert any(is_adapter(name) for name in model.state_dict())


def test_inject_depends_on_the_seed_alone_and_draws_nothing_from_the_global_generator() -> None:
    build_copy("mobilenet_v3_small")  # the first call draws from torch's global generator
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (injected("mobilenet_v3_small", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert [name for name, _ in first.named_parameters()] == [name for name, _ in again.named_parameters()]
    assert all(map(torch.equal, first.parameters(), again.parameters()))
    assert not all(map(torch.equal, first.parameters(), other.parameters()))


def test_inject_accepts_rank_larger_than_layer() -> None:
    model = build_copy("mobilenet_v3_small")
    inject(model, ["features.1"], LoraConfig(rank=64, dropout=0.1), 1)
    randomize_adapters(model.eval())
    adapted = outputs(model)
    merge(model)
    assert torch.allclose(outputs(model), adapted, atol=1e-4, rtol=1e-4)


def test_adaptable_excludes_grouped_dilated_and_not_zero_padded_convolutions() -> None:
    assert adaptable(Small(), ["stem", "head"]) == ["stem.0", "stem.4"]


def test_adaptable_excludes_attention_that_does_not_call_its_layers() -> None:
    assert adaptable(build_copy("vit"), ["encoder.layers.encoder_layer_1"]) == [
        "encoder.layers.encoder_layer_1.mlp.0", "encoder.layers.encoder_layer_1.mlp.3",
    ]  # fmt: skip
    assert not [name for name in adaptable(build_copy("swin_t"), ["features.7"]) if ".attn." in name]


def test_inject_does_not_match_layers_of_other_stages_by_name() -> None:
    assert adaptable(build_copy("resnet18"), ["conv1"]) == ["conv1"]
    model = build_copy("resnet18")
    inject(model, ["conv1"], CONFIG, 1)
    assert {stage_of(name) for name in model.state_dict() if is_adapter(name)} == {"conv1"}


def test_freeze_all_but_freezes_adapters_of_frozen_stages() -> None:
    model = injected("resnet18")
    freeze_all_but(model, 1)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {stage_of(name) for name in trainable} == {"layer4", "head"}
    assert all(is_adapter(name) or stage_of(name) == "head" for name in trainable)


def test_inject_uses_the_image_size_of_the_model() -> None:
    model = create_model("maxvit_t", 2, 0.0, 448)
    inject(model, ["blocks.3"], CONFIG, 1)
    assert {stage_of(name) for name in model.state_dict() if is_adapter(name)} == {"blocks.3"}


def test_inject_rejects_stages_without_adaptable_layers() -> None:
    with pytest.raises(TrainingError, match=r"no layer to adapt in the unfrozen stages \(encoder.ln\)"):
        inject(build_copy("vit"), ["encoder.ln", "head"], CONFIG, 1)


def test_merge_rejects_adapter_that_is_not_finite() -> None:
    model = injected("vit")
    with torch.no_grad():
        next(value for name, value in model.named_parameters() if is_adapter(name)).fill_(torch.inf)
    with pytest.raises(TrainingError, match=r"adapter of encoder.layers.encoder_layer_1.mlp.0 is not finite"):
        merge(model)


def test_inject_without_peft_names_the_setting_and_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"training.fine_tune.lora needs .* pip install 'graft\[lora\]'"):
        injected("vit")
