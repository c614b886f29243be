"""Weights are found in a file however they are wrapped, loaded and accounted for, or refused."""

from __future__ import annotations

import argparse
import logging
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from graft.config import ModelConfig
from graft.errors import WeightsError
from graft.networks.backbones import build, head_name, preprocessing, skeleton
from graft.networks.weights import load, pin, state_dict

TRACKED = "num_batches_tracked"


def config(path: Path | str, architecture: str = "mobilenet_v3_small") -> ModelConfig:
    return ModelConfig(architecture=architecture, weights=str(path))


def filled(model: nn.Module) -> dict[str, Tensor]:
    """A model's state dict with numbers that no initialisation gives."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(value.shape, generator=generator).to(value.dtype) if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def body(state: dict[str, Tensor], head: str) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.startswith(f"{head}.")}


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in state.items()}


@pytest.fixture
def resnet18() -> dict[str, Tensor]:
    return body(filled(models.resnet18()), "fc")


@pytest.fixture
def vit(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """The entries of a small ViT by timm's names; ``vit_b_16`` builds as small a one."""

    def small(_: str, **options: Any) -> models.VisionTransformer:  # noqa: ANN401
        return models.VisionTransformer(options["image_size"], 16, 2, 2, 32, 64)

    monkeypatch.setattr("torchvision.models.get_model", small)
    return timm_names(body(filled(small("vit_b_16", image_size=224)), "heads"))


def timm_names(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    theirs = {}
    for name, value in ours.items():
        for old, new in (
            ("class_token", "cls_token"),
            ("encoder.pos_embedding", "pos_embed"),
            ("conv_proj", "patch_embed.proj"),
            ("encoder.ln.", "norm."),
            ("encoder.layers.encoder_layer_", "blocks."),
            ("ln_", "norm"),
            ("self_attention.in_proj_", "attn.qkv."),
            ("self_attention.out_proj", "attn.proj"),
            ("mlp.0", "mlp.fc1"),
            ("mlp.3", "mlp.fc2"),
        ):
            name = name.replace(old, new)  # noqa: PLW2901
        theirs[name] = value
    return theirs


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_of_weights_is_loaded_whole_but_for_the_head(tmp_path: Path, suffix: str) -> None:
    source = filled(models.mobilenet_v3_small())
    path = tmp_path / f"weights{suffix}"
    save_file(source, path) if suffix == ".safetensors" else torch.save(source, path)
    model = build(config(path), 3, seed=0)
    head = head_name(model)
    loaded = {name: value for name, value in model.state_dict().items() if not name.startswith(head)}
    assert all(torch.equal(value, source[name]) for name, value in loaded.items())


def test_the_bundled_weights_fit() -> None:
    model = skeleton("mobilenet_v3_small", 10, 0.2, 48)
    report = load(model, config("letters"))
    assert preprocessing(config("letters")).crop_px == 48
    assert model.state_dict()["features.0.0.weight"].dtype == torch.float32
    assert report.missing == report.left_over == []


def test_the_norm_before_the_head_keeps_its_pretrained_weights(tmp_path: Path) -> None:
    source = models.convnext_tiny().state_dict()
    source["classifier.0.weight"].fill_(3.0)
    save_file(source, tmp_path / "w.safetensors")
    model = build(config(tmp_path / "w.safetensors", "convnext_tiny"), 2, seed=0)
    assert (model.state_dict()["classifier.0.weight"] == 3.0).all()


def test_the_names_of_torchvisions_own_old_files_are_known(tmp_path: Path) -> None:
    new = filled(models.densenet121())
    old = {
        name.replace("norm1.", "norm.1.").replace("norm2.", "norm.2.").replace("conv1.", "conv.1.")
        .replace("conv2.", "conv.2.") if "denselayer" in name else name: value
        for name, value in new.items() if not name.endswith(TRACKED)
    }  # fmt: skip
    model = skeleton("densenet121", 2, 0.2, 224)
    report = load(model, config(saved(old, tmp_path / "w.pth"), "densenet121"))
    assert report.missing == []
    assert report.left_over == ["classifier.weight", "classifier.bias"]
    assert all(torch.equal(model.state_dict()[name], new[name]) for name in report.loaded)


def test_the_auxiliary_heads_of_googlenet_are_left_over(tmp_path: Path) -> None:
    source = models.GoogLeNet(init_weights=False).state_dict()
    report = load(skeleton("googlenet", 2, 0.2, 224), config(saved(source, tmp_path / "w.pth"), "googlenet"))
    assert report.missing == []
    assert {name.split(".")[0] for name in report.left_over} == {"aux1", "aux2", "fc"}


def test_moco(tmp_path: Path, resnet18: dict[str, Tensor]) -> None:
    momentum = {name: torch.zeros_like(value) for name, value in resnet18.items()}
    state = prefixed("module.encoder_k.", momentum) | prefixed("module.encoder_q.", resnet18)
    state |= {"module.queue": torch.zeros(128, 8), "module.encoder_q.fc.0.weight": torch.zeros(512, 512)}
    path = saved(
        {"epoch": 200, "state_dict": state, "optimizer": {"state": {0: torch.ones(1)}}}, tmp_path / "w.pth"
    )
    model = skeleton("resnet18", 3, 0.2, 224)
    report = load(model, config(path, "resnet18"))
    assert (report.wrapper, report.prefix) == ("state_dict", "module.encoder_q.")
    assert report.loaded == list(resnet18)
    assert report.missing == []
    assert set(report.left_over) == set(state) - set(prefixed("module.encoder_q.", resnet18)) | {
        "epoch", "optimizer"
    }  # fmt: skip
    assert all(torch.equal(model.state_dict()[name], value) for name, value in resnet18.items())
    assert report.in_words() == (
        "loaded 120 of 120 entries of the backbone (under 'state_dict', named module.encoder_q.*); missing: none; "
        "left over: 124 (120 module.encoder_k*, 1 module.queue*, 1 module.encoder_q*, 1 epoch*, 1 optimizer*)"
    )


def test_moco_v3(tmp_path: Path, vit: dict[str, Tensor]) -> None:
    state = prefixed("module.momentum_encoder.", vit) | prefixed("module.base_encoder.", vit)
    report = load(
        skeleton("vit_b_16", 3, 0.2, 224), config(saved({"state_dict": state}, tmp_path / "w.pth"), "vit_b_16")
    )
    assert report.prefix == "module.base_encoder."


def test_dino(tmp_path: Path, vit: dict[str, Tensor]) -> None:
    student = {name: torch.zeros_like(value) for name, value in vit.items()}
    content = {
        "student": prefixed("module.backbone.", student),
        "teacher": prefixed("backbone.", vit) | {"head.mlp.0.weight": torch.zeros(8, 32)},
        "args": argparse.Namespace(arch="vit_small"),
    }
    model = skeleton("vit_b_16", 3, 0.2, 224)
    report = load(model, config(saved(content, tmp_path / "w.pth"), "vit_b_16"))
    assert (report.wrapper, report.prefix) == ("teacher", "backbone.")
    assert report.left_over == ["head.mlp.0.weight", "student", "args"]
    kept = timm_names(body(model.state_dict(), "heads"))
    assert list(kept) == list(vit)
    assert all(torch.equal(value, vit[name]) for name, value in kept.items())


def test_mae(tmp_path: Path, vit: dict[str, Tensor]) -> None:
    decoder = prefixed("decoder_", {name: value for name, value in vit.items() if name != "cls_token"})
    content = {"model": decoder | vit | {"mask_token": torch.zeros(1, 1, 16)}, "args": argparse.Namespace(lr=1.0)}
    report = load(skeleton("vit_b_16", 3, 0.2, 224), config(saved(content, tmp_path / "w.pth"), "vit_b_16"))
    assert (report.wrapper, report.prefix, report.missing) == ("model", "", [])
    assert "12 decoder_blocks*" not in report.in_words()
    assert "24 decoder_blocks*" in report.in_words()


def test_the_names_of_torchvisions_own_vit_are_known(tmp_path: Path, vit: dict[str, Tensor]) -> None:
    model = skeleton("vit_b_16", 3, 0.2, 224)
    load(model, config(saved(vit, tmp_path / "new.pth"), "vit_b_16"))
    old = {name.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): value
           for name, value in model.state_dict().items()}  # fmt: skip
    report = load(skeleton("vit_b_16", 3, 0.2, 224), config(saved(old, tmp_path / "old.pth"), "vit_b_16"))
    assert (report.missing, report.left_over) == ([], ["heads.1.weight", "heads.1.bias"])


def test_a_vit_for_another_size_is_refused_with_its_size(tmp_path: Path, vit: dict[str, Tensor]) -> None:
    with pytest.raises(
        WeightsError, match=r"encoder.pos_embedding is \[1, 197, 32\] .* model.crop_px must be .* \(224\)"
    ):
        load(skeleton("vit_b_16", 3, 0.2, 256), config(saved(vit, tmp_path / "w.pth"), "vit_b_16"))


def test_a_vit_with_scaled_layers_is_refused(tmp_path: Path, vit: dict[str, Tensor]) -> None:
    more = vit | {"blocks.0.ls1.gamma": torch.ones(32)}
    with pytest.raises(WeightsError, match=r"1 entries have no place in the model \(such as blocks.0.ls1.gamma\)"):
        load(skeleton("vit_b_16", 3, 0.2, 224), config(saved(more, tmp_path / "w.pth"), "vit_b_16"))


SQUEEZED = filled(models.squeezenet1_1(num_classes=2))
NAMES = st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), max_size=12)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prefix=st.lists(NAMES, max_size=3), wrapper=st.lists(NAMES, max_size=3))
def test_any_wrapper_and_any_prefix_load_the_same(tmp_path: Path, prefix: list[str], wrapper: list[str]) -> None:
    content: dict[str, Any] = prefixed("".join(f"{part}." for part in prefix), SQUEEZED)
    for key in wrapper:
        content = {"epoch": 3, key: content}
    model = skeleton("squeezenet1_1", 3, 0.2, 64)
    report = load(model, config(saved(content, tmp_path / "w.pth"), "squeezenet1_1"))
    assert report.prefix == "".join(f"{part}." for part in prefix)
    assert report.missing == []
    assert all(
        torch.equal(model.state_dict()[name], value) for name, value in body(SQUEEZED, "classifier").items()
    )


def test_less_than_all_is_loaded_and_the_missing_named(
    tmp_path: Path, resnet18: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    del resnet18["layer4.1.bn2.bias"]
    path = saved(OrderedDict(prefixed("module.", resnet18)), tmp_path / "w.pth")
    with caplog.at_level(logging.INFO, logger="graft.networks.backbones"):
        build(config(path, "resnet18"), 3, seed=0)
    assert caplog.messages == [
        f"{path}: loaded 119 of 120 entries of the backbone (named module.*); missing: layer4.1.bn2.bias; "
        f"left over: none"
    ]


def test_names_that_would_disturb_a_terminal_are_escaped(tmp_path: Path, resnet18: dict[str, Tensor]) -> None:
    path = saved(resnet18 | {"\x1b[31m\n": torch.ones(1)}, tmp_path / "w.pth")
    report = load(skeleton("resnet18", 3, 0.2, 224), config(path, "resnet18"))
    assert report.in_words().endswith(r"left over: \x1b[31m\n")


@pytest.mark.parametrize("half", ["layer3.", "layer4."])
def test_half_is_refused(tmp_path: Path, resnet18: dict[str, Tensor], half: str) -> None:
    torn = {name: value for name, value in resnet18.items() if not name.startswith(half)}
    with pytest.raises(
        WeightsError, match=rf"do not fit resnet18: 25 of 100 entries are missing \(such as {half}"
    ):
        load(skeleton("resnet18", 3, 0.2, 224), config(saved(torn, tmp_path / "w.pth"), "resnet18"))


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    save_file(models.resnet18().state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"do not fit mobilenet_v3_small: .* entries are missing"):
        build(config(tmp_path / "w.safetensors"), 3, seed=0)


def test_weights_of_a_deeper_network_are_refused_although_they_hold_all(tmp_path: Path) -> None:
    path = saved(models.resnet34().state_dict(), tmp_path / "w.pth")
    with pytest.raises(
        WeightsError, match=r"entries have no place in the model \(such as layer1.2.conv1.weight\)"
    ):
        build(config(path, "resnet18"), 3, seed=0)


def test_a_parameter_of_another_shape_is_refused_by_name(tmp_path: Path, resnet18: dict[str, Tensor]) -> None:
    resnet18["conv1.weight"] = torch.zeros(64, 3, 3, 3)
    with pytest.raises(
        WeightsError, match=r"conv1.weight is \[64, 3, 3, 3\] in the file and \[64, 3, 7, 7\] in the model"
    ):
        load(skeleton("resnet18", 3, 0.2, 224), config(saved(resnet18, tmp_path / "w.pth"), "resnet18"))


class Trap:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    with pytest.raises(WeightsError, match=r"w.pth: holds something other than tensors.*save its state_dict"):
        state_dict(config(tmp_path / "w.pth"))
    assert not (tmp_path / "ran").exists()


def test_code_among_the_options_of_a_run_is_refused_and_never_run(tmp_path: Path) -> None:
    options = argparse.Namespace(trap=Trap(tmp_path / "ran"))
    saved({"model": {"a": torch.ones(1)}, "args": options}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds something other than tensors"):
        state_dict(config(tmp_path / "w.pth"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda value: value.index_fill(0, torch.tensor([1]), float("nan")), "holds values that are not finite"),
        (lambda value: value.int(), "is int32 in the file and float32 in the model"),
        (lambda value: value.to(torch.complex64), "is complex64 in the file and float32 in the model"),
        (lambda value: value.bool(), "is bool in the file"),
        (lambda value: value.to("meta"), "is no plain tensor but without values"),
        (lambda value: value.to_sparse(), "is no plain tensor but float32"),
        (lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8), "is no plain tensor but qint8"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # torch means to give up its quantised tensors
def test_an_entry_that_nothing_can_be_computed_with_is_refused_by_name(
    tmp_path: Path, resnet18: dict[str, Tensor], spoil: Callable[[Tensor], Tensor], reason: str
) -> None:
    resnet18["layer1.0.bn1.weight"] = spoil(resnet18["layer1.0.bn1.weight"])
    with pytest.raises(WeightsError, match=rf"w.pth do not fit resnet18: layer1.0.bn1.weight {reason}"):
        load(skeleton("resnet18", 3, 0.2, 224), config(saved(resnet18, tmp_path / "w.pth"), "resnet18"))


def test_half_precision_is_taken(tmp_path: Path, resnet18: dict[str, Tensor]) -> None:
    half = {name: value.half() if value.is_floating_point() else value for name, value in resnet18.items()}
    model = skeleton("resnet18", 3, 0.2, 224)
    load(model, config(saved(half, tmp_path / "w.pth"), "resnet18"))
    assert model.state_dict()["conv1.weight"].dtype == torch.float32


def test_a_file_that_holds_itself_is_searched_once(tmp_path: Path, resnet18: dict[str, Tensor]) -> None:
    content: dict[str, Any] = {"state_dict": resnet18}
    content |= {f"loop{n}": content for n in range(20)}
    report = load(skeleton("resnet18", 3, 0.2, 224), config(saved(content, tmp_path / "w.pth"), "resnet18"))
    assert report.wrapper == "state_dict"


def test_what_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="holds a list; give a state dict"):
        state_dict(config(saved([torch.ones(1)], tmp_path / "w.pth")))


def test_torn_weights_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(100)}, tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:120])
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        state_dict(config(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_an_empty_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.touch()
    with pytest.raises(WeightsError, match=r"cannot be read as weights \(it is empty\)"):
        state_dict(config(path))


def test_no_network_and_no_cache_says_where_to_put_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", _refused)
    with pytest.raises(WeightsError, match=r"place it in .*checkpoints"):
        state_dict(config("DEFAULT"))


def _refused(*_: object, **__: object) -> None:
    raise OSError("no network")


def test_torchvisions_cache_is_used_where_there_is_no_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", _refused)
    name = models.MobileNet_V3_Small_Weights.DEFAULT.url.rsplit("/", 1)[1]
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save({"a": torch.ones(1)}, tmp_path / "hub" / "checkpoints" / name)
    monkeypatch.setattr("torch.hub._get_torch_home", lambda: str(tmp_path))
    assert state_dict(config("DEFAULT"))["a"] == torch.ones(1)


def test_a_file_replaced_under_its_name_has_another_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"one")
    before = pin(config(path))
    path.write_bytes(b"two")
    assert pin(config(path)) != before
    assert pin(config("letters")).weights_fingerprint != "none"
