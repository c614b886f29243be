from __future__ import annotations

import copy
import sys
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from graft.errors import ConfigError, TrainingError
from graft.networks.backbones import skeleton, stage_of
from graft.networks.freezing import freeze_all_but
from graft.networks.lora import adaptable, inject, is_adapter, merge
from graft.training_config import LoraConfig

THAWED = {
    "mobilenet_v3_small": ["features.11", "features.12", "head"],
    "resnet18": ["layer3", "layer4", "head"],
    "vit": ["encoder.layers.encoder_layer_1", "encoder.ln", "head"],
    "swin_t": ["features.7", "norm", "head"],
    "convnext_tiny": ["features.7", "head"],
}
CONFIG = LoraConfig(rank=4)
every_architecture = pytest.mark.parametrize("architecture", THAWED)


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
        if name == "heads.head.weight":  # a ViT's begins at zero
            nn.init.normal_(parameter)
    model(images(16))
    return model.eval()


def build(architecture: str) -> nn.Module:
    return copy.deepcopy(original(architecture))


def injected(architecture: str, config: LoraConfig = CONFIG, seed: int = 1) -> nn.Module:
    model = build(architecture)
    inject(model, THAWED[architecture], config, seed)
    freeze_all_but(model, len(THAWED[architecture]) - 1)
    return model


def disturb_adapters(model: nn.Module) -> None:
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if is_adapter(name):
                parameter.normal_(std=0.1)


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return torch.as_tensor(model(images()))


@every_architecture
def test_adapters_sit_in_the_thawed_stages_only_and_change_nothing_yet(architecture: str) -> None:
    model, plain = injected(architecture), build(architecture)
    state = model.state_dict()
    assert {stage_of(name) for name in state if is_adapter(name)} == set(THAWED[architecture]) - {
        "encoder.ln", "norm", "head",
    }  # fmt: skip
    base = {
        name.replace("base_layer.", ""): value.numpy() for name, value in state.items() if not is_adapter(name)
    }
    assert base.keys() == plain.state_dict().keys()
    assert all((base[name] == value.numpy()).all() for name, value in plain.state_dict().items())
    assert torch.equal(outputs(model), outputs(plain))


@every_architecture
def test_training_moves_adapters_and_head_only(architecture: str) -> None:
    model = injected(architecture)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name in before if is_adapter(name) or stage_of(name) == "head"}
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=1e-2)
    for _ in range(2):  # the first step leaves each A where it was, for its B is zero
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images()), torch.tensor([0, 1])).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == trainable


@every_architecture
def test_merging_restores_the_architecture_and_keeps_outputs(architecture: str) -> None:
    model, plain = injected(architecture), build(architecture)
    disturb_adapters(model)
    adapted = outputs(model)
    merge(model)
    assert (adapted - outputs(plain)).abs().max() > 1e-2
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [type(module) for module in model.modules()] == [type(module) for module in plain.modules()]
    assert torch.allclose(outputs(model), adapted, atol=1e-4, rtol=1e-4)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(outputs(plain), outputs(model))


def test_a_plain_model_merges_to_itself() -> None:
    model = build("resnet18")
    merge(model)
    assert torch.equal(outputs(model), outputs(original("resnet18")))


def test_an_injected_model_can_be_copied() -> None:
    model = injected("vit")
    disturb_adapters(model)
    twin = copy.deepcopy(model)
    assert torch.equal(outputs(twin), outputs(model))
    merge(twin)
    assert any(is_adapter(name) for name in model.state_dict())


def test_one_seed_gives_the_same_adapters_and_leaves_other_randomness_alone() -> None:
    build("mobilenet_v3_small")  # the first one draws from torch's generator
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (injected("mobilenet_v3_small", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert [name for name, _ in first.named_parameters()] == [name for name, _ in again.named_parameters()]
    assert all(map(torch.equal, first.parameters(), again.parameters()))
    assert not all(map(torch.equal, first.parameters(), other.parameters()))


def test_a_rank_above_the_width_of_a_layer_works() -> None:
    model = build("mobilenet_v3_small")
    inject(model, ["features.1"], LoraConfig(rank=64, dropout=0.1), 1)
    disturb_adapters(model.eval())
    adapted = outputs(model)
    merge(model)
    assert torch.allclose(outputs(model), adapted, atol=1e-4, rtol=1e-4)


def test_grouped_dilated_and_otherwise_padded_convolutions_are_left_out() -> None:
    assert adaptable(Small(), ["stem", "head"]) == ["stem.0", "stem.4"]


def test_attention_whose_weights_are_read_past_its_layers_is_left_out() -> None:
    assert adaptable(build("vit"), ["encoder.layers.encoder_layer_1"]) == [
        "encoder.layers.encoder_layer_1.mlp.0", "encoder.layers.encoder_layer_1.mlp.3",
    ]  # fmt: skip
    assert not [name for name in adaptable(build("swin_t"), ["features.7"]) if ".attn." in name]


def test_a_stage_is_not_mistaken_for_a_layer_of_another() -> None:
    assert adaptable(build("resnet18"), ["conv1"]) == ["conv1"]
    model = build("resnet18")
    inject(model, ["conv1"], CONFIG, 1)
    assert {stage_of(name) for name in model.state_dict() if is_adapter(name)} == {"conv1"}


def test_adapters_of_stages_that_are_not_named_stay_frozen() -> None:
    model = injected("resnet18")
    freeze_all_but(model, 1)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {stage_of(name) for name in trainable} == {"layer4", "head"}
    assert all(is_adapter(name) or stage_of(name) == "head" for name in trainable)


def test_a_network_for_one_size_alone_is_adapted_at_its_own() -> None:
    model = skeleton("maxvit_t", 2, 0.0, 448)
    inject(model, ["blocks.3"], CONFIG, 1)
    assert {stage_of(name) for name in model.state_dict() if is_adapter(name)} == {"blocks.3"}


def test_stages_without_anything_to_adapt_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"no layer to adapt in the thawed stages \(encoder.ln\)"):
        inject(build("vit"), ["encoder.ln", "head"], CONFIG, 1)


def test_an_adapter_that_is_not_finite_is_never_merged() -> None:
    model = injected("vit")
    with torch.no_grad():
        next(value for name, value in model.named_parameters() if is_adapter(name)).fill_(torch.inf)
    with pytest.raises(TrainingError, match=r"adapter of encoder.layers.encoder_layer_1.mlp.0 is not finite"):
        merge(model)


def test_a_missing_peft_is_named_with_the_setting_and_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"training.fine_tune.lora needs .* pip install 'graft\[lora\]'"):
        injected("vit")
