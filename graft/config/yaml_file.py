"""Reads and checks config files and overrides; an invalid one is an error of one sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from graft.config.image_sources import is_url
from graft.config.parameters import DataConfig, PromotionParameters, SplitConfig, TrainingParameters
from graft.config.regular_file import read_regular_file
from graft.config.strict_model import StrictModel
from graft.config.training import FineTuneConfig, TrainingConfig
from graft.errors import ConfigError, DataError, did_you_mean

SCIENTIFIC = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # without a decimal point, YAML 1.1 reads it as text
QUOTED = re.compile(r"'.*'|\".*\"", re.DOTALL)
MAX_CONFIG_BYTES = 10_000_000
RENAMED_KEYS: dict[type[BaseModel], dict[str, str]] = {
    FineTuneConfig: {"thaw_epochs": "unfreeze_epochs", "stage_decay": "layer_decay"},
}
REMOVED_KEYS: dict[type[BaseModel], dict[str, str]] = {
    FineTuneConfig: {"patience": "the folds choose the number of epochs"},
    SplitConfig: {"validation_fraction": "the model is trained on every image that is not held out"},
    TrainingConfig: {"select_by": "the folds choose the recipe by their log loss"},
}
P = TypeVar("P", bound=StrictModel)


class _UniqueKeyLoader(yaml.SafeLoader):
    """A YAML loader that rejects duplicate keys, of which PyYAML would silently use the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise ConfigError(f"line {key_node.start_mark.line + 1}: duplicate key {key!r}; remove one of them.")
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a config file as a mapping; raises ``ConfigError`` if it is not one.

    Where a parameter takes text, its text is read as written: ``2024``, ``2024-05-01``, ``no`` and ``null`` as well.
    """
    try:
        loader = _UniqueKeyLoader(read_regular_file(path, MAX_CONFIG_BYTES).decode("utf-8-sig"))
        root = loader.get_single_node()
        for key, node in _items(root):
            if key == "parameters":
                for kind in (TrainingParameters, PromotionParameters):
                    _read_text_as_written(node, kind)
        content = loader.construct_document(root) if root else None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path.") from error
    except DataError as error:
        raise ConfigError(f"{path}: {error}; give a config file.") from error
    except (yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
        raise ConfigError(f"{path}: is not valid YAML: {' '.join(str(error).split())}.") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: is {_shortened(content)}; it must be a mapping with `parameters:`.")
    return content


def parse_parameters(kind: type[P], content: Mapping[str, Any], where: str) -> P:
    """Validate ``parameters:``, and that a local ``data.root`` exists; raises ``ConfigError`` prefixed by ``where``."""
    parameters = content.get("parameters")
    if not isinstance(parameters, dict):
        raise ConfigError(f"{where}: `parameters` is {_shortened(parameters)}; it must be a mapping with `data.root`.")
    try:
        parsed = kind.model_validate(parameters)
    except ValidationError as error:
        raise ConfigError(f"{where}: {validation_message(error, kind)}") from error
    root = getattr(parsed, "data", None)
    if isinstance(root, DataConfig) and not is_url(root.root) and not Path(root.root).exists():
        raise ConfigError(f"{where}: data.root is {root.root!r}, which does not exist; give the folder of your images.")
    return parsed


def training_parameters(path: Path, assignments: list[str]) -> TrainingParameters:
    """The parameters in a config file, with ``section.key=value`` overrides applied; raises ``ConfigError``."""
    return parse_parameters(TrainingParameters, with_overrides(read_yaml(path), assignments), str(path))


def with_overrides(content: Mapping[str, Any], assignments: list[str]) -> dict[str, Any]:
    """Apply ``section.key=value`` overrides under ``parameters:``; values are read as YAML. Raises ``ConfigError``."""
    result = dict(content)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not all(path.split(".")):
            raise ConfigError(f"--set {assignment}: must look like section.key=value.")
        keys = path.split(".")
        is_text = any(_takes_text(_annotation_at(kind, keys)) for kind in (TrainingParameters, PromotionParameters))
        # YAML would read some paths and names as dates, numbers or lists, and the part after " #" as a comment.
        value = text.strip() if is_text and not QUOTED.fullmatch(text.strip()) else _yaml_value(text, assignment)
        result = _with_value(result, ["parameters", *keys], value, assignment)
    return result


def _yaml_value(text: str, assignment: str) -> Any:  # noqa: ANN401
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {assignment}: the value is not valid YAML.") from error


def _read_text_as_written(node: yaml.Node, kind: type[BaseModel]) -> None:
    """Mark the values of keys that take text as text, at any depth, whatever YAML would make of them."""
    for key, value in _items(node):
        annotation = _annotation_at(kind, [key])
        if isinstance(value, yaml.ScalarNode) and _takes_text(annotation):
            value.tag = "tag:yaml.org,2002:str"
        elif section := _section_of(annotation):
            _read_text_as_written(value, section)


def _items(node: yaml.Node | None) -> list[tuple[str, yaml.Node]]:
    """The keys and values of a mapping; nothing of another node."""
    return [(str(key.value), value) for key, value in node.value] if isinstance(node, yaml.MappingNode) else []


def _takes_text(annotation: object) -> bool:
    """Whether a key takes text alone: a string, or one of several strings."""
    if get_origin(annotation) is Literal:
        return all(isinstance(value, str) for value in get_args(annotation))
    return annotation is str


def _with_value(mapping: Mapping[str, Any], keys: list[str], value: Any, assignment: str) -> dict[str, Any]:  # noqa: ANN401
    key, *subkeys = keys
    if not subkeys:
        return {**mapping, key: value}
    inner = mapping.get(key) or {}
    if not isinstance(inner, Mapping):
        raise ConfigError(f"--set {assignment}: {key} is {_shortened(inner)}, which is not a section; check the key.")
    return {**mapping, key: _with_value(inner, subkeys, value, assignment)}


def _hint_for_unknown(key: str, section: type[BaseModel] | None) -> str:
    if section is None:
        return did_you_mean([], key)
    if new_key := RENAMED_KEYS.get(section, {}).get(key):
        return f"it is now called {new_key}."
    if reason := REMOVED_KEYS.get(section, {}).get(key):
        return f"remove it: {reason}."
    return did_you_mean(list(section.model_fields), key)


def validation_message(error: ValidationError, kind: type[BaseModel]) -> str:
    """The first error that pydantic found, as a sentence: the key, its value, and what is allowed."""
    first = error.errors()[0]
    keys = [str(part) for part in first["loc"]]
    where = ".".join(keys)
    if first["type"] == "extra_forbidden":
        return f"unknown key {where!r}; {_hint_for_unknown(keys[-1], _section_at(kind, keys[:-1]))}"
    if first["type"] == "missing":
        return f"{where} is missing; give it a value."
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "float_type" and SCIENTIFIC.fullmatch(str(first["input"])):
        return f"{where} is read by YAML as the text {first['input']!r}; write {float(first['input'])!r}."
    if not where or first["type"] == "value_error":
        return f"{where + ': ' if where else ''}{message}."
    return f"{where} is {_shortened(first['input'])}; {message[0].lower()}{message[1:]}."


def _section_at(kind: type[BaseModel], keys: list[str]) -> type[BaseModel] | None:
    """The section under these keys, whether or not it is optional; None if there is none."""
    for key in keys:
        section = _section_of(_annotation_at(kind, [key]))
        if section is None:
            return None
        kind = section
    return kind


def _annotation_at(kind: type[BaseModel], keys: list[str]) -> object:
    """The type of the value under these keys; None if there are no such keys."""
    section = _section_at(kind, keys[:-1])
    field = section.model_fields.get(keys[-1]) if section else None
    return field.annotation if field else None


def _section_of(annotation: object) -> type[BaseModel] | None:
    """The section that a key takes, whether or not it is optional; None if it takes another value."""
    candidates = (annotation, *get_args(annotation))
    return next((one for one in candidates if isinstance(one, type) and issubclass(one, BaseModel)), None)


def _shortened(value: object) -> str:
    text = "empty" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
