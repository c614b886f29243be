"""Pretrained weights are found in a file, loaded and reported, or rejected with the reason."""

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

from graft.config.parameters import ModelConfig
from graft.errors import WeightsError
from graft.models.backbones import build_model, create_model, preprocessing_for
from graft.models.stages import head_name
from graft.models.weights import fingerprint_model, load_pretrained, read_state_dict

TRACKED = "num_batches_tracked"


def config(path: Path | str, architecture: str = "mobilenet_v3_small") -> ModelConfig:
    return ModelConfig(architecture=architecture, weights=str(path))


def filled(model: nn.Module) -> dict[str, Tensor]:
    """A model's state dict with random values 0..1, unlike any initialisation."""
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
    """The state dict of a small ViT with timm's names; ``vit_b_16`` is built just as small."""

    def small_vit(_: str, **options: Any) -> models.VisionTransformer:  # noqa: ANN401
        return models.VisionTransformer(options["image_size"], 16, 2, 2, 32, 64)

    monkeypatch.setattr("torchvision.models.get_model", small_vit)
    return with_timm_names(body(filled(small_vit("vit_b_16", image_size=224)), "heads"))


def with_timm_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, value in state.items():
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
        renamed[name] = value
    return renamed


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_build_model_loads_all_weights_of_a_file_but_the_head(tmp_path: Path, suffix: str) -> None:
    source = filled(models.mobilenet_v3_small())
    path = tmp_path / f"weights{suffix}"
    save_file(source, path) if suffix == ".safetensors" else torch.save(source, path)
    model = build_model(config(path), 3, seed=0)
    head = head_name(model)
    loaded = {name: value for name, value in model.state_dict().items() if not name.startswith(head)}
    assert all(torch.equal(value, source[name]) for name, value in loaded.items())


def test_bundled_weights_fit() -> None:
    model = create_model("mobilenet_v3_small", 10, 0.2, 48)
    report = load_pretrained(model, config("letters"))
    assert preprocessing_for(config("letters")).crop_px == 48
    assert model.state_dict()["features.0.0.weight"].dtype == torch.float32
    assert report.missing == report.unused == []


def test_pretrained_norm_before_the_head_is_loaded(tmp_path: Path) -> None:
    source = models.convnext_tiny().state_dict()
    source["classifier.0.weight"].fill_(3.0)
    save_file(source, tmp_path / "w.safetensors")
    model = build_model(config(tmp_path / "w.safetensors", "convnext_tiny"), 2, seed=0)
    assert (model.state_dict()["classifier.0.weight"] == 3.0).all()


def test_old_names_of_torchvision_densenet_are_loaded(tmp_path: Path) -> None:
    new = filled(models.densenet121())
    old = {
        name.replace("norm1.", "norm.1.").replace("norm2.", "norm.2.").replace("conv1.", "conv.1.")
        .replace("conv2.", "conv.2.") if "denselayer" in name else name: value
        for name, value in new.items() if not name.endswith(TRACKED)
    }  # fmt: skip
    model = create_model("densenet121", 2, 0.2, 224)
    report = load_pretrained(model, config(saved(old, tmp_path / "w.pth"), "densenet121"))
    assert report.missing == []
    assert report.unused == ["classifier.weight", "classifier.bias"]
    assert all(torch.equal(model.state_dict()[name], new[name]) for name in report.loaded)


def test_auxiliary_heads_of_googlenet_are_unused(tmp_path: Path) -> None:
    source = models.GoogLeNet(init_weights=False).state_dict()
    report = load_pretrained(
        create_model("googlenet", 2, 0.2, 224), config(saved(source, tmp_path / "w.pth"), "googlenet")
    )
    assert report.missing == []
    assert {name.split(".")[0] for name in report.unused} == {"aux1", "aux2", "fc"}


def test_moco_checkpoint_is_loaded(tmp_path: Path, resnet18: dict[str, Tensor]) -> None:
    momentum = {name: torch.zeros_like(value) for name, value in resnet18.items()}
    state = prefixed("module.encoder_k.", momentum) | prefixed("module.encoder_q.", resnet18)
    state |= {"module.queue": torch.zeros(128, 8), "module.encoder_q.fc.0.weight": torch.zeros(512, 512)}
    path = saved({"epoch": 200, "state_dict": state, "optimizer": {"state": {0: torch.ones(1)}}}, tmp_path / "w.pth")
    model = create_model("resnet18", 3, 0.2, 224)
    report = load_pretrained(model, config(path, "resnet18"))
    assert (report.wrapper, report.prefix) == ("state_dict", "module.encoder_q.")
    assert report.loaded == list(resnet18)
    assert report.missing == []
    assert set(report.unused) == set(state) - set(prefixed("module.encoder_q.", resnet18)) | {
        "epoch", "optimizer"
    }  # fmt: skip
    assert all(torch.equal(model.state_dict()[name], value) for name, value in resnet18.items())
    assert report.describe() == (
        "loaded 120 of 120 entries of the backbone (under 'state_dict', named module.encoder_q.*); missing: none; "
        "unused: 124 (120 module.encoder_k*, 1 module.queue*, 1 module.encoder_q*, 1 epoch*, 1 optimizer*)"
    )


def test_moco_v3_checkpoint_is_loaded_from_the_base_encoder(tmp_path: Path, vit: dict[str, Tensor]) -> None:
    state = prefixed("module.momentum_encoder.", vit) | prefixed("module.base_encoder.", vit)
    report = load_pretrained(
        create_model("vit_b_16", 3, 0.2, 224), config(saved({"state_dict": state}, tmp_path / "w.pth"), "vit_b_16")
    )
    assert report.prefix == "module.base_encoder."


def test_dino_checkpoint_is_loaded_from_the_teacher(tmp_path: Path, vit: dict[str, Tensor]) -> None:
    student = {name: torch.zeros_like(value) for name, value in vit.items()}
    content = {
        "student": prefixed("module.backbone.", student),
        "teacher": prefixed("backbone.", vit) | {"head.mlp.0.weight": torch.zeros(8, 32)},
        "args": argparse.Namespace(arch="vit_small"),
    }
    model = create_model("vit_b_16", 3, 0.2, 224)
    report = load_pretrained(model, config(saved(content, tmp_path / "w.pth"), "vit_b_16"))
    assert (report.wrapper, report.prefix) == ("teacher", "backbone.")
    assert report.unused == ["head.mlp.0.weight", "student", "args"]
    loaded = with_timm_names(body(model.state_dict(), "heads"))
    assert list(loaded) == list(vit)
    assert all(torch.equal(value, vit[name]) for name, value in loaded.items())


def test_mae_checkpoint_is_loaded(tmp_path: Path, vit: dict[str, Tensor]) -> None:
    decoder = prefixed("decoder_", {name: value for name, value in vit.items() if name != "cls_token"})
    content = {"model": decoder | vit | {"mask_token": torch.zeros(1, 1, 16)}, "args": argparse.Namespace(lr=1.0)}
    report = load_pretrained(
        create_model("vit_b_16", 3, 0.2, 224), config(saved(content, tmp_path / "w.pth"), "vit_b_16")
    )
    assert (report.wrapper, report.prefix, report.missing) == ("model", "", [])
    assert "12 decoder_blocks*" not in report.describe()
    assert "24 decoder_blocks*" in report.describe()


def test_old_names_of_torchvision_vit_are_loaded(tmp_path: Path, vit: dict[str, Tensor]) -> None:
    model = create_model("vit_b_16", 3, 0.2, 224)
    load_pretrained(model, config(saved(vit, tmp_path / "new.pth"), "vit_b_16"))
    old = {name.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): value
           for name, value in model.state_dict().items()}  # fmt: skip
    report = load_pretrained(
        create_model("vit_b_16", 3, 0.2, 224), config(saved(old, tmp_path / "old.pth"), "vit_b_16")
    )
    assert (report.missing, report.unused) == ([], ["heads.1.weight", "heads.1.bias"])


def test_vit_of_another_image_size_is_rejected_with_its_size(tmp_path: Path, vit: dict[str, Tensor]) -> None:
    with pytest.raises(
        WeightsError, match=r"encoder.pos_embedding is \[1, 197, 32\] .* model.crop_px must be .* \(224\)"
    ):
        load_pretrained(create_model("vit_b_16", 3, 0.2, 256), config(saved(vit, tmp_path / "w.pth"), "vit_b_16"))


def test_vit_with_layer_scale_is_rejected(tmp_path: Path, vit: dict[str, Tensor]) -> None:
    scaled = vit | {"blocks.0.ls1.gamma": torch.ones(32)}
    with pytest.raises(WeightsError, match=r"1 entries are not in the model \(such as blocks.0.ls1.gamma\)"):
        load_pretrained(create_model("vit_b_16", 3, 0.2, 224), config(saved(scaled, tmp_path / "w.pth"), "vit_b_16"))


SQUEEZENET = filled(models.squeezenet1_1(num_classes=2))
NAMES = st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), max_size=12)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prefix=st.lists(NAMES, max_size=3), wrapper=st.lists(NAMES, max_size=3))
def test_any_wrapper_and_prefix_are_found(tmp_path: Path, prefix: list[str], wrapper: list[str]) -> None:
    content: dict[str, Any] = prefixed("".join(f"{part}." for part in prefix), SQUEEZENET)
    for key in wrapper:
        content = {"epoch": 3, key: content}
    model = create_model("squeezenet1_1", 3, 0.2, 64)
    report = load_pretrained(model, config(saved(content, tmp_path / "w.pth"), "squeezenet1_1"))
    assert report.prefix == "".join(f"{part}." for part in prefix)
    assert report.missing == []
    assert all(torch.equal(model.state_dict()[name], value) for name, value in body(SQUEEZENET, "classifier").items())


def test_missing_entry_is_logged(tmp_path: Path, resnet18: dict[str, Tensor], caplog: pytest.LogCaptureFixture) -> None:
    del resnet18["layer4.1.bn2.bias"]
    path = saved(OrderedDict(prefixed("module.", resnet18)), tmp_path / "w.pth")
    with caplog.at_level(logging.INFO, logger="graft.models.backbones"):
        build_model(config(path, "resnet18"), 3, seed=0)
    assert caplog.messages == [
        f"{path}: loaded 119 of 120 entries of the backbone (named module.*); missing: layer4.1.bn2.bias; unused: none"
    ]


def test_describe_escapes_control_characters(tmp_path: Path, resnet18: dict[str, Tensor]) -> None:
    path = saved(resnet18 | {"\x1b[31m\n": torch.ones(1)}, tmp_path / "w.pth")
    report = load_pretrained(create_model("resnet18", 3, 0.2, 224), config(path, "resnet18"))
    assert report.describe().endswith(r"unused: \x1b[31m\n")


@pytest.mark.parametrize("layer", ["layer3.", "layer4."])
def test_weights_without_a_layer_are_rejected(tmp_path: Path, resnet18: dict[str, Tensor], layer: str) -> None:
    incomplete = {name: value for name, value in resnet18.items() if not name.startswith(layer)}
    with pytest.raises(WeightsError, match=rf"do not fit resnet18: 25 of 100 entries are missing \(such as {layer}"):
        load_pretrained(
            create_model("resnet18", 3, 0.2, 224), config(saved(incomplete, tmp_path / "w.pth"), "resnet18")
        )


def test_weights_of_another_architecture_are_rejected(tmp_path: Path) -> None:
    save_file(models.resnet18().state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"do not fit mobilenet_v3_small: .* entries are missing"):
        build_model(config(tmp_path / "w.safetensors"), 3, seed=0)


def test_weights_of_a_deeper_network_are_rejected_although_none_is_missing(tmp_path: Path) -> None:
    path = saved(models.resnet34().state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"entries are not in the model \(such as layer1.2.conv1.weight\)"):
        build_model(config(path, "resnet18"), 3, seed=0)


def test_entry_of_another_shape_is_rejected_by_name(tmp_path: Path, resnet18: dict[str, Tensor]) -> None:
    resnet18["conv1.weight"] = torch.zeros(64, 3, 3, 3)
    with pytest.raises(
        WeightsError, match=r"conv1.weight is \[64, 3, 3, 3\] in the file and \[64, 3, 7, 7\] in the model"
    ):
        load_pretrained(create_model("resnet18", 3, 0.2, 224), config(saved(resnet18, tmp_path / "w.pth"), "resnet18"))


class Trap:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_pickle_is_rejected_and_not_executed(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(pickle.dumps(Trap(tmp_path / "executed")))
    with pytest.raises(WeightsError, match=r"w.pth: holds objects other than tensors.*save only its state_dict"):
        read_state_dict(config(tmp_path / "w.pth"))
    assert not (tmp_path / "executed").exists()


def test_code_in_saved_options_is_rejected_and_not_executed(tmp_path: Path) -> None:
    options = argparse.Namespace(trap=Trap(tmp_path / "executed"))
    saved({"model": {"a": torch.ones(1)}, "args": options}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds objects other than tensors"):
        read_state_dict(config(tmp_path / "w.pth"))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("corrupt", "reason"),
    [
        (lambda value: value.index_fill(0, torch.tensor([1]), float("nan")), "holds values that are not finite"),
        (lambda value: value.int(), "is int32 in the file and float32 in the model"),
        (lambda value: value.to(torch.complex64), "is complex64 in the file and float32 in the model"),
        (lambda value: value.bool(), "is bool in the file"),
        (lambda value: value.to("meta"), "is not a plain tensor but without values"),
        (lambda value: value.to_sparse(), "is not a plain tensor but float32"),
        (lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8), "is not a plain tensor but qint8"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # torch deprecates its quantised tensors
def test_entry_with_unusable_values_is_rejected_by_name(
    tmp_path: Path, resnet18: dict[str, Tensor], corrupt: Callable[[Tensor], Tensor], reason: str
) -> None:
    resnet18["layer1.0.bn1.weight"] = corrupt(resnet18["layer1.0.bn1.weight"])
    with pytest.raises(WeightsError, match=rf"w.pth do not fit resnet18: layer1.0.bn1.weight {reason}"):
        load_pretrained(create_model("resnet18", 3, 0.2, 224), config(saved(resnet18, tmp_path / "w.pth"), "resnet18"))


def test_half_precision_weights_are_loaded_as_float32(tmp_path: Path, resnet18: dict[str, Tensor]) -> None:
    half = {name: value.half() if value.is_floating_point() else value for name, value in resnet18.items()}
    model = create_model("resnet18", 3, 0.2, 224)
    load_pretrained(model, config(saved(half, tmp_path / "w.pth"), "resnet18"))
    assert model.state_dict()["conv1.weight"].dtype == torch.float32


def test_recursive_file_is_searched_once(tmp_path: Path, resnet18: dict[str, Tensor]) -> None:
    content: dict[str, Any] = {"state_dict": resnet18}
    content |= {f"loop{n}": content for n in range(20)}
    report = load_pretrained(
        create_model("resnet18", 3, 0.2, 224), config(saved(content, tmp_path / "w.pth"), "resnet18")
    )
    assert report.wrapper == "state_dict"


def test_file_without_state_dict_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="holds a list; give a state dict"):
        read_state_dict(config(saved([torch.ones(1)], tmp_path / "w.pth")))


def test_truncated_file_is_rejected(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(100)}, tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:120])
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        read_state_dict(config(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_empty_file_is_rejected(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.touch()
    with pytest.raises(WeightsError, match=r"cannot be read as weights \(it is empty\)"):
        read_state_dict(config(path))


def test_download_error_says_where_to_place_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", _fail_to_connect)
    with pytest.raises(WeightsError, match=r"place it in .*checkpoints"):
        read_state_dict(config("DEFAULT"))


def _fail_to_connect(*_: object, **__: object) -> None:
    raise OSError("no network")


def test_cache_of_torchvision_is_used_without_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", _fail_to_connect)
    name = models.MobileNet_V3_Small_Weights.DEFAULT.url.rsplit("/", 1)[1]
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save({"a": torch.ones(1)}, tmp_path / "hub" / "checkpoints" / name)
    monkeypatch.setattr("torch.hub._get_torch_home", lambda: str(tmp_path))
    assert read_state_dict(config("DEFAULT"))["a"] == torch.ones(1)


def test_fingerprint_differs_after_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"one")
    before = fingerprint_model(config(path))
    path.write_bytes(b"two")
    assert fingerprint_model(config(path)) != before
    assert fingerprint_model(config("letters")).weights_fingerprint != "none"
