"""Config files: read strictly, with some values replaced, and refused with one sentence."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from graft.config import DataConfig, TrainingParameters
from graft.data.storage import is_address
from graft.errors import ConfigError
from graft.section import Section

SCIENTIFIC = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # without a point, YAML 1.1 takes it for text
P = TypeVar("P", bound=Section)


class _UniqueKeyLoader(yaml.SafeLoader):
    """A YAML loader that refuses a key given twice: the first would vanish in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise ConfigError(f"line {key_node.start_mark.line + 1}: key {key!r} is given twice; keep one.")
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a config file as a mapping; raises ``ConfigError`` where it cannot be one."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
        raise ConfigError(f"{path}: is not valid YAML: {' '.join(str(error).split())}.") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds {_shown(content)} where a mapping with `parameters:` is expected.")
    return content


def parse_parameters(kind: type[P], content: Mapping[str, Any], where: str) -> P:
    """Check ``parameters:`` of a config and that its folder exists; raises ``ConfigError`` with one sentence."""
    parameters = content.get("parameters")
    if not isinstance(parameters, dict):
        raise ConfigError(f"{where}: `parameters` is {_shown(parameters)}; it must be a mapping with `data.root`.")
    try:
        parsed = kind.model_validate(parameters)
    except ValidationError as error:
        raise ConfigError(f"{where}: {describe(error, kind)}") from error
    root = getattr(parsed, "data", None)
    if isinstance(root, DataConfig) and not is_address(root.root) and not Path(root.root).exists():
        raise ConfigError(
            f"{where}: data.root is {root.root!r}, which does not exist; give the folder of your images."
        )
    return parsed


def training_parameters(path: Path, assignments: list[str]) -> TrainingParameters:
    """What a config file asks for, with ``section.key=value`` assignments applied; raises ``ConfigError``."""
    return parse_parameters(TrainingParameters, with_overrides(read_yaml(path), assignments), str(path))


def with_overrides(content: Mapping[str, Any], assignments: list[str]) -> dict[str, Any]:
    """Apply ``section.key=value`` assignments under ``parameters:``; values are read as YAML."""
    result = dict(content)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not all(path.split(".")):
            raise ConfigError(f"--set {assignment}: must look like section.key=value.")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {assignment}: the value is not valid YAML.") from error
        if isinstance(value, str) and text.strip()[0] not in "'\"":
            value = text.strip()  # of a path with " #" in it, YAML would take the rest for a comment
        result = _replaced(result, ["parameters", *path.split(".")], value, assignment)
    return result


def _replaced(mapping: Mapping[str, Any], keys: list[str], value: Any, assignment: str) -> dict[str, Any]:  # noqa: ANN401
    first, *rest = keys
    if not rest:
        return {**mapping, first: value}
    inner = mapping.get(first) or {}
    if not isinstance(inner, Mapping):
        raise ConfigError(f"--set {assignment}: {first} is {_shown(inner)}, which holds no keys.")
    return {**mapping, first: _replaced(inner, rest, value, assignment)}


def describe(error: ValidationError, kind: type[BaseModel]) -> str:
    """The first problem of a pydantic error: key, value, what is allowed."""
    first = error.errors()[0]
    keys = [str(part) for part in first["loc"]]
    where = ".".join(keys)
    if first["type"] == "extra_forbidden":
        return f"unknown key {where!r}; {allowed_keys(_fields_at(kind, keys[:-1]), keys[-1])}"
    if first["type"] == "missing":
        return f"{where} is missing; give it a value."
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "float_type" and SCIENTIFIC.fullmatch(str(first["input"])):
        return f"{where} is read by YAML as the text {first['input']!r}; write {float(first['input'])!r}."
    if not where or first["type"] == "value_error":
        return f"{where + ': ' if where else ''}{message}."
    return f"{where} is {_shown(first['input'])}; {message[0].lower()}{message[1:]}."


def allowed_keys(known: list[str], given: str) -> str:
    """A sentence that lists what is allowed, and the nearest to what was given."""
    near = difflib.get_close_matches(given, known, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"allowed are {', '.join(known)}{hint}."


def _fields_at(kind: type[BaseModel], keys: list[str]) -> list[str]:
    for key in keys:
        inner = kind.model_fields[key].annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        kind = inner
    return list(kind.model_fields)


def _shown(value: object) -> str:
    text = "empty" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
