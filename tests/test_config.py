"""A config is parsed strictly; an invalid one is an error of one sentence."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from graft.config.parameters import PromotionParameters, TrainingParameters
from graft.config.strict_model import StrictModel
from graft.config.yaml_file import RENAMED_KEYS, parse_parameters, read_yaml, training_parameters, with_overrides
from graft.errors import ConfigError

MINIMAL = {"data": {"root": "."}}


def parse(parameters: dict[str, Any]) -> TrainingParameters:
    return parse_parameters(TrainingParameters, {"parameters": parameters}, "x.yaml")


def sections(kind: type[StrictModel], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The paths of all sections."""
    paths = [path]
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, StrictModel):
            paths += sections(inner, (*path, name))
    return paths


def minimal_with(path: tuple[str, ...], values: dict[str, Any]) -> dict[str, Any]:
    """A minimal config with these values in the section at a path."""
    content: dict[str, Any] = {"data": {"root": "."}}
    section = content
    for name in path:
        section = section.setdefault(name, {})
    section.update(values)
    return content


def test_config_has_a_default_for_everything_but_the_root() -> None:
    assert parse(MINIMAL).cross_validation.folds == 5


@given(st.sampled_from(sections(TrainingParameters)), st.text(min_size=1, max_size=12))
def test_config_rejects_an_unknown_key_by_name_in_every_section(path: tuple[str, ...], key: str) -> None:
    section: type[Any] = TrainingParameters
    for name in path:
        section = section.model_fields[name].annotation
    if key in section.model_fields or key in RENAMED_KEYS.get(section, {}):
        return
    with pytest.raises(ConfigError, match="unknown key") as error:
        parse(minimal_with(path, {key: 1}))
    assert repr(".".join([*path, key])) in str(error.value)
    assert "allowed are" in str(error.value)


@pytest.mark.parametrize(
    ("path", "values", "message"),
    [
        (("training",), {"batch_size": "many"}, "training.batch_size is 'many'"),
        (("training",), {"batch_size": 0}, "greater than or equal to 1"),
        (("training", "augmentation"), {"strength": "wild"}, "'none', 'light' or 'strong'"),
        (("training",), {"batch_size": 10**20}, "less than or equal to 65536"),
        (("training", "augmentation"), {"mixup_alpha": 1e-300}, "1e-300 is too small; give 0 to disable it"),
        (("training", "warm_up"), {"learning_rate": 1e300}, "less than or equal to 1000"),
        (("training", "fine_tune"), {"unfrozen_stages": 3}, "which strategy auto does not use"),
        (("training", "fine_tune"), {"unfreeze_epochs": [0, 1]}, "unfreeze_epochs requires strategy gradual"),
        (("training",), {"strategy": "gradual", "fine_tune": {"unfreeze_epochs": [1, 0]}}, "in non-decreasing order"),
        (
            ("training",),
            {"strategy": "gradual", "fine_tune": {"unfreeze_epochs": [0, 20]}},
            "give epochs from 0 to 19",
        ),
        (("training", "warm_up"), {"learning_rate": -1.0}, "greater than 0"),
        (("training", "augmentation"), {"horizontal_flip": 1}, "valid boolean"),
        (("cross_validation",), {"folds": 1}, "cross_validation.folds is 1"),
        (("model",), {"crop_px": 300, "resize_px": 200}, "crop_px must be at most resize_px"),
        (("registry",), {"name": "a/b"}, "registry.name is 'a/b'"),
        (("data",), {"root": "no/such/folder"}, "does not exist"),
        (("data",), {"root": 3}, "data.root is 3"),
        (("training", "warm_up"), {"learning_rate": float("inf")}, "finite number"),
        (("training", "warm_up"), {"learning_rate": "1e-4"}, "write 0.0001"),
        (("data", "validation"), {"min_brightness": 200.0, "max_brightness": 100.0}, "must be below"),
        ((), {"seed": -1}, "seed is -1"),
        ((), {"data": {}}, "data.root is missing"),
        ((), {"training": None}, "training is empty"),
    ],
)
def test_config_rejects_an_invalid_value_with_key_value_and_what_is_allowed(
    path: tuple[str, ...], values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        parse(minimal_with(path, values))
    assert message in str(error.value)
    assert str(error.value).startswith("x.yaml: ")
    assert "\n" not in str(error.value)


def test_config_lists_the_keys_of_an_optional_section() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown key 'training.fine_tune.lora.rnk'; allowed are rank, alpha, dropout"
    ):
        parse({"data": {"root": "."}, "training": {"fine_tune": {"lora": {"rnk": 4}}}})


def test_config_suggests_the_closest_key() -> None:
    with pytest.raises(ConfigError, match="did you mean 'training'"):
        parse(MINIMAL | {"trainig": {}})


@pytest.mark.parametrize(
    ("old", "new", "value"), [("thaw_epochs", "unfreeze_epochs", "[0, 1]"), ("stage_decay", "layer_decay", "0.3")]
)
@pytest.mark.parametrize("as_override", [False, True])
def test_config_names_the_successor_of_a_renamed_key(
    tmp_path: Path, old: str, new: str, value: str, as_override: bool
) -> None:
    path = tmp_path / "x.yaml"
    fine_tune = {} if as_override else {old: yaml.safe_load(value)}
    path.write_text(yaml.safe_dump({"parameters": minimal_with(("training", "fine_tune"), fine_tune)}))
    overrides = [f"training.fine_tune.{old}={value}"] if as_override else []
    with pytest.raises(ConfigError) as error:
        training_parameters(path, overrides)
    assert str(error.value) == f"{path}: unknown key 'training.fine_tune.{old}'; it is now called {new}."


@pytest.mark.parametrize(
    ("key", "value"),
    [("data.split.validation_fraction", 0.2), ("training.select_by", "loss"), ("training.fine_tune.patience", 3)],
)
def test_config_says_why_a_removed_key_is_not_needed(tmp_path: Path, key: str, value: object) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump({"parameters": MINIMAL}))
    with pytest.raises(ConfigError, match=rf"unknown key '{key}'; remove it: the (folds choose|model is trained)"):
        training_parameters(path, [f"{key}={value}"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "line 2: duplicate key 'a'"),
        ("[1, 2]", "it must be a mapping"),
        ("", "it must be a mapping"),
        ("a: [", "not valid YAML"),
        ("a: !!python/object/apply:os.system [echo]", "not valid YAML"),
        ("? [a]\n: 1", "not valid YAML"),
    ],
)
def test_read_yaml_rejects_a_file_that_is_not_a_config(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        read_yaml(tmp_path / "x.yaml")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_read_yaml_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        read_yaml(tmp_path / "nowhere.yaml")


@given(st.one_of(st.integers(), st.booleans(), st.text("abc xyz", min_size=1), st.none()))  # not for a key of text
def test_override_replaces_one_value_and_nothing_else(value: object) -> None:
    text = yaml.safe_dump(value).removesuffix("\n...\n").strip()
    before = {"parameters": {"data": {"root": "."}, "seed": 1}, "enable_cache": True}
    after = with_overrides(before, [f"model.dropout={text}"])
    assert after["parameters"]["model"] == {"dropout": value}
    del after["parameters"]["model"]
    assert after == before


@pytest.mark.parametrize("assignment", ["seed", "=1", "data..root=1", "seed.more=1", "seed=["])
def test_override_is_rejected_if_malformed(assignment: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        with_overrides({"parameters": {"seed": 1}}, [assignment])


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[1].glob("configs/*.yaml")), ids=lambda path: path.stem)
def test_bundled_config_is_valid_and_begins_with_the_command_to_run_it(path: Path) -> None:
    assert path.read_text().startswith("# ")
    assert " run " in path.read_text()
    content = read_yaml(path)
    content["parameters"]["data"]["root"] = "."
    kind = PromotionParameters if path.stem == "promotion" else TrainingParameters
    parse_parameters(kind, content, path.name)


TEXTS = ["2024-05-01", "2024", "1e3", "0x1F", "010", "1_000", "12:30:45", "yes", "off", "null", ".5", "~x", "=", "on"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("as_override", [False, True])
def test_key_of_text_is_read_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, as_override: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / text).mkdir()
    in_file = "x" if as_override else text
    (tmp_path / "x").mkdir(exist_ok=True)
    (tmp_path / "x.yaml").write_text(
        f"parameters:\n  data: {{root: {in_file}}}\n  model:\n    weights: {in_file}\n    architecture: {in_file}\n"
    )
    keys = ("data.root", "model.weights", "model.architecture")
    parameters = training_parameters(Path("x.yaml"), [f"{key}={text}" for key in keys] if as_override else [])
    assert (parameters.data.root, parameters.model.weights, parameters.model.architecture) == (text, text, text)


@pytest.mark.parametrize("text", ["[old] photos", "a: b", "{x}", "*x", "@x", "%x", "- x", "x # y", "&x", "!x", "x'y"])
def test_override_of_a_path_needs_no_quotes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / text).mkdir()
    (tmp_path / "x.yaml").write_text("parameters: {data: {root: x}}\n")
    assert training_parameters(Path("x.yaml"), [f"data.root={text}"]).data.root == text
    assert training_parameters(Path("x.yaml"), [f'data.root="{text}"']).data.root == text


def test_number_as_registry_name_is_text_in_both_pipelines(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("parameters: {data: {root: .}, registry: {name: 2024}}\n")
    assert training_parameters(tmp_path / "x.yaml", []).registry.name == "2024"
    content = with_overrides(read_yaml(tmp_path / "x.yaml"), ["registry.name=1e3"])
    content["parameters"]["gate"] = {}
    assert parse_parameters(PromotionParameters, content, "x.yaml").registry.name == "1e3"


def test_choice_among_words_is_read_as_written(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("parameters: {data: {root: .}, training: {augmentation: {strength: no}}}\n")
    with pytest.raises(ConfigError, match="strength is 'no'; input should be 'none', 'light' or 'strong'"):
        training_parameters(tmp_path / "x.yaml", [])
    with pytest.raises(ConfigError, match="strength is 'off'"):
        training_parameters(tmp_path / "x.yaml", ["training.augmentation.strength=off"])


def test_keys_of_numbers_are_still_read_as_yaml(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(
        "parameters: {data: {root: .}, seed: 0x10, training: {compute: {threads: auto}}}\n"
    )
    parameters = training_parameters(
        tmp_path / "x.yaml",
        ["training.compute.channels_last=yes", "data.validation.formats=[PNG]", "model.crop_px=null"],
    )
    assert (parameters.seed, parameters.training.compute.channels_last) == (16, True)
    assert (parameters.data.validation.formats, parameters.model.crop_px) == (("PNG",), None)


def test_home_folder_may_be_written_as_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "photos").mkdir()
    (tmp_path / "x.yaml").write_text("parameters: {data: {root: ~/photos}, model: {weights: ~/w.pth}}\n")
    parameters = training_parameters(tmp_path / "x.yaml", [])
    assert (parameters.data.root, parameters.model.weights) == (f"{tmp_path}/photos", f"{tmp_path}/w.pth")
    (tmp_path / "x.yaml").write_text("parameters: {data: {root: ~}}\n")
    assert training_parameters(tmp_path / "x.yaml", []).data.root == str(tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_read_yaml_rejects_what_is_no_regular_file(tmp_path: Path, kind: str) -> None:
    path = Path("/dev/zero")
    if kind == "pipe":
        path = tmp_path / "x.yaml"
        os.mkfifo(path)
    with pytest.raises(ConfigError, match=f"{path}: is not a regular file; give a config file"):
        read_yaml(path)
