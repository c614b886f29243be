"""Any torchvision classifier becomes a backbone with stages and a head; weights fit or are refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from graft.backbones import build, check, head_name, pin, preprocessing, stages, state_dict
from graft.config import ModelConfig
from graft.errors import ConfigError, WeightsError

SMALL = ["mobilenet_v2", "mobilenet_v3_small", "resnet18", "squeezenet1_1", "shufflenet_v2_x0_5", "mnasnet0_5"]
MEDIUM = ["efficientnet_b0", "densenet121", "vit_b_16", "googlenet", "regnet_y_400mf", "swin_t", "convnext_tiny"]


def config(**values: Any) -> ModelConfig:  # noqa: ANN401
    return ModelConfig(**{"architecture": "mobilenet_v3_small", "weights": "none"} | values)


@pytest.mark.parametrize("architecture", [*SMALL, *MEDIUM])
def test_the_head_is_new_and_the_stages_run_from_input_to_output(architecture: str) -> None:
    model = build(config(architecture=architecture), classes=3, seed=0).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 3)
    names = stages(model)
    assert names[-1] == "head"
    assert len(names) == len(set(names)) >= 5


def test_the_head_depends_on_the_seed_alone() -> None:
    torch.manual_seed(7)
    first = build(config(), 3, seed=1).state_dict()
    second = build(config(), 3, seed=1).state_dict()
    third = build(config(), 3, seed=2).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["classifier.1.weight"], third["classifier.1.weight"])


def test_the_bundled_weights_fit() -> None:
    model = build(config(weights="letters"), 10, seed=0)
    assert preprocessing(config(weights="letters")).crop_px == 48
    assert model.state_dict()["features.0.0.weight"].dtype == torch.float32


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_of_weights_is_loaded_whole_but_for_the_head(tmp_path: Path, suffix: str) -> None:
    source = models.mobilenet_v3_small().state_dict()
    path = tmp_path / f"weights{suffix}"
    save_file(source, path) if suffix == ".safetensors" else torch.save(source, path)
    model = build(config(weights=str(path)), 3, seed=0)
    head = head_name(model)
    loaded = {name: value for name, value in model.state_dict().items() if not name.startswith(head)}
    assert all(torch.equal(value, source[name]) for name, value in loaded.items())


def test_the_norm_before_the_head_keeps_its_pretrained_weights(tmp_path: Path) -> None:
    source = models.convnext_tiny().state_dict()
    source["classifier.0.weight"].fill_(3.0)
    save_file(source, tmp_path / "w.safetensors")
    model = build(config(architecture="convnext_tiny", weights=str(tmp_path / "w.safetensors")), 2, seed=0)
    assert (model.state_dict()["classifier.0.weight"] == 3.0).all()


def test_weights_bring_their_own_preprocessing() -> None:
    sizes = {
        weights: preprocessing(config(architecture="resnet50", weights=weights)).resize_px
        for weights in ("IMAGENET1K_V1", "IMAGENET1K_V2", "DEFAULT")
    }
    assert sizes == {"IMAGENET1K_V1": 256, "IMAGENET1K_V2": 232, "DEFAULT": 232}
    large = preprocessing(config(architecture="vit_b_16", weights="IMAGENET1K_SWAG_E2E_V1"))
    assert large.crop_px == 384
    assert preprocessing(config(architecture="inception_v3")).mean == (0.5, 0.5, 0.5)


def test_the_last_norm_of_a_transformer_thaws_first() -> None:
    assert stages(build(config(architecture="vit_b_32"), 2, seed=0))[-3:] == [
        "encoder.layers.encoder_layer_11", "encoder.ln", "head"
    ]  # fmt: skip


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    save_file(models.resnet18().state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"do not fit mobilenet_v3_small: .* entries are missing"):
        build(config(weights=str(tmp_path / "w.safetensors")), 3, seed=0)


class Trap:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        state_dict(config(weights=str(tmp_path / "w.pth")))
    assert not (tmp_path / "ran").exists()


def test_torn_weights_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(100)}, tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:120])
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        state_dict(config(weights=str(tmp_path / "w.safetensors")))


def test_no_network_and_no_cache_says_where_to_put_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", _refused)
    with pytest.raises(WeightsError, match=r"place it in .*checkpoints"):
        state_dict(config(weights="DEFAULT"))


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
    assert state_dict(config(weights="DEFAULT"))["a"] == torch.ones(1)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"architecture": "resnet81"}, "did you mean 'resnet18'"),
        ({"weights": "IMAGENET1K_V9"}, "allowed are DEFAULT, IMAGENET1K_V1"),
        ({"weights": "gone.safetensors"}, "which is no file"),
        ({"architecture": "resnet18", "weights": "letters"}, "fits mobilenet_v3_small only"),
        ({"architecture": "fasterrcnn_resnet50_fpn"}, "model.architecture is 'fasterrcnn_resnet50_fpn'"),
    ],
)
def test_what_cannot_be_meant_is_refused(values: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        check(config(**values))
    assert words in str(error.value)


def test_a_file_replaced_under_its_name_has_another_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"one")
    before = pin(config(weights=str(path)))
    path.write_bytes(b"two")
    assert pin(config(weights=str(path))) != before
    assert pin(config(weights="letters")).weights_fingerprint != "none"


def test_sizes_may_be_given() -> None:
    assert preprocessing(config(resize_px=100, crop_px=90)).in_words().startswith("short side to 100 px")
    assert preprocessing(config(crop_px=500)).resize_px == 500
    assert preprocessing(config(resize_px=64)).crop_px == 64
