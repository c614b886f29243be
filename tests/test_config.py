"""A config says what it means, or is refused with one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from graft.config import PromotionParameters, TrainingParameters
from graft.config_file import parse_parameters, read_yaml, with_overrides
from graft.errors import ConfigError
from graft.section import Section

HERE = {"data": {"root": "."}}


def parse(parameters: dict[str, Any]) -> TrainingParameters:
    return parse_parameters(TrainingParameters, {"parameters": parameters}, "x.yaml")


def sections(kind: type[Section], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The paths of all sections."""
    found = [path]
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            found += sections(inner, (*path, name))
    return found


def placed(path: tuple[str, ...], value: dict[str, Any]) -> dict[str, Any]:
    """The value at a path, beside a root that exists."""
    content: dict[str, Any] = {"data": {"root": "."}}
    inner = content
    for name in path:
        inner = inner.setdefault(name, {})
    inner.update(value)
    return content


def test_everything_but_the_root_has_a_default() -> None:
    assert parse(HERE).cross_validation.folds == 5


@given(st.sampled_from(sections(TrainingParameters)), st.text(min_size=1, max_size=12))
def test_an_unknown_key_is_refused_by_name_in_every_section(path: tuple[str, ...], key: str) -> None:
    known: type[Any] = TrainingParameters
    for name in path:
        known = known.model_fields[name].annotation
    if key in known.model_fields:
        return
    with pytest.raises(ConfigError, match="unknown key") as error:
        parse(placed(path, {key: 1}))
    assert repr(".".join([*path, key])) in str(error.value)
    assert "allowed are" in str(error.value)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("training",), {"batch_size": "many"}, "training.batch_size is 'many'"),
        (("training",), {"batch_size": 0}, "greater than or equal to 1"),
        (("training", "augmentation"), {"strength": "wild"}, "'none', 'light' or 'strong'"),
        (("training",), {"batch_size": 10**20}, "less than or equal to 65536"),
        (("training", "augmentation"), {"mixup_alpha": 1e-300}, "give 0 to leave it out"),
        (("training", "warm_up"), {"learning_rate": 1e300}, "less than or equal to 1000"),
        (("training", "fine_tune"), {"unfrozen_stages": 3}, "which strategy auto does not use"),
        (("training", "fine_tune"), {"thaw_epochs": [0, 1]}, "thaw_epochs belongs to strategy gradual"),
        (("training",), {"strategy": "gradual", "fine_tune": {"thaw_epochs": [1, 0]}}, "that never fall"),
        (("training",), {"strategy": "gradual", "fine_tune": {"thaw_epochs": [0, 3]}}, "give epochs from 0 to 2"),
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
def test_an_impossible_value_is_refused_with_key_value_and_what_is_allowed(
    path: tuple[str, ...], value: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError) as error:
        parse(placed(path, value))
    message = str(error.value)
    assert words in message
    assert message.startswith("x.yaml: ")
    assert "\n" not in message


def test_a_near_miss_is_named() -> None:
    with pytest.raises(ConfigError, match="did you mean 'training'"):
        parse(HERE | {"trainig": {}})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2\n", "line 2: key 'a' is given twice"),
        ("[1, 2]", "where a mapping"),
        ("", "where a mapping"),
        ("a: [", "not valid YAML"),
        ("a: !!python/object/apply:os.system [echo]", "not valid YAML"),
        ("? [a]\n: 1", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        read_yaml(tmp_path / "x.yaml")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        read_yaml(tmp_path / "nowhere.yaml")


@given(st.one_of(st.integers(), st.booleans(), st.text("abc xyz", min_size=1), st.none()))
def test_an_override_replaces_one_value_and_nothing_else(value: object) -> None:
    text = yaml.safe_dump(value).removesuffix("\n...\n").strip()
    before = {"parameters": {"data": {"root": "."}, "seed": 1}, "enable_cache": True}
    after = with_overrides(before, [f"model.weights={text}"])
    assert after["parameters"]["model"] == {"weights": value}
    del after["parameters"]["model"]
    assert after == before


@pytest.mark.parametrize("assignment", ["seed", "=1", "data..root=1", "seed.more=1", "seed=["])
def test_a_broken_override_is_refused(assignment: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        with_overrides({"parameters": {"seed": 1}}, [assignment])


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parents[1].glob("configs/*.yaml")), ids=lambda path: path.stem
)
def test_the_configs_that_come_along_say_how_they_are_run(path: Path) -> None:
    assert path.read_text().startswith("# ")
    assert " run " in path.read_text()
    content = read_yaml(path)
    content["parameters"]["data"]["root"] = "."
    kind = PromotionParameters if path.stem == "promotion" else TrainingParameters
    parse_parameters(kind, content, path.name)
