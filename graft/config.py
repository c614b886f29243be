"""The config: frozen sections that refuse unknown keys, wrong types and impossible values.

Every default lives here and nowhere else. A function gets the narrow section that it needs.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from graft.errors import ConfigError

SCIENTIFIC = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # without a point, YAML 1.1 takes it for text
PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A part of the config."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ValidationConfig(Section):
    """What the images must be. Sides in pixels, fractions of all images."""

    min_images: PositiveInt = 20
    min_images_per_class: PositiveInt = 10
    min_side_px: PositiveInt = 32
    max_aspect_ratio: Annotated[float, Field(ge=1)] = 8.0
    max_imbalance: Annotated[float, Field(ge=1)] = 20.0
    max_duplicate_fraction: Annotated[float, Field(ge=0, le=1)] = 0.2
    min_brightness: Annotated[float, Field(ge=0, le=255)] = 5.0
    max_brightness: Annotated[float, Field(ge=0, le=255)] = 250.0
    on_bad_images: Literal["quarantine", "fail"] = "quarantine"
    max_quarantined_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1

    @model_validator(mode="after")
    def _brightness_is_a_range(self) -> Self:
        if self.min_brightness >= self.max_brightness:
            raise ValueError(
                f"min_brightness is {self.min_brightness:g} and max_brightness is {self.max_brightness:g}; "
                f"min_brightness must be below max_brightness"
            )
        return self


class SplitConfig(Section):
    """How images are set aside. ``holdout_fraction`` counts only where no ``val/`` folder is given."""

    holdout_fraction: Annotated[float, Field(gt=0, le=0.5)] = 0.2
    validation_fraction: Annotated[float, Field(gt=0, le=0.5)] = 0.15


class DataConfig(Section):
    """Where the images are, and what is asked of them."""

    root: Annotated[str, Field(min_length=1)]
    validation: ValidationConfig = ValidationConfig()
    split: SplitConfig = SplitConfig()


class ModelConfig(Section):
    """The backbone.

    ``weights`` is the name of torchvision weights (``DEFAULT``, ``IMAGENET1K_V1`` …), the path of a
    ``.safetensors`` or ``.pth`` file, ``letters`` (bundled, ``mobilenet_v3_small`` only), or ``none``.
    ``resize_px`` and ``crop_px`` are taken from the weights where they are not given.
    """

    architecture: Annotated[str, Field(min_length=1)] = "mobilenet_v2"
    weights: Annotated[str, Field(min_length=1)] = "DEFAULT"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    resize_px: Annotated[int, Field(ge=16, le=2048)] | None = None
    crop_px: Annotated[int, Field(ge=16, le=2048)] | None = None

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.resize_px is not None and self.crop_px is not None and self.crop_px > self.resize_px:
            raise ValueError(
                f"crop_px is {self.crop_px} and resize_px is {self.resize_px}; crop_px must be at most resize_px"
            )
        return self


class LoopConfig(Section):
    """What warm-up and fine-tuning share. ``label_smoothing`` and ``gradient_clip`` follow the usual recipes."""

    batch_size: PositiveInt = 32
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    gradient_clip: PositiveFloat = 1.0
    augmentation: Literal["none", "light", "strong"] = "light"
    horizontal_flip: bool = True


class WarmUpConfig(Section):
    """Training the head on a frozen backbone."""

    epochs: PositiveInt = 4
    learning_rate: PositiveFloat = 2e-3


class FineTuneConfig(Section):
    """Training the head and the last stages; each stage toward the input learns ``stage_decay`` times slower.

    Training ends after ``patience`` epochs without a better macro-F1 on the validation images.
    """

    epochs: PositiveInt = 3
    unfrozen_stages: PositiveInt = 2
    learning_rate: PositiveFloat = 1e-4
    stage_decay: Annotated[float, Field(gt=0, le=1)] = 0.3
    patience: PositiveInt = 3


class TrainingConfig(Section):
    """The recipe."""

    loop: LoopConfig = LoopConfig()
    warm_up: WarmUpConfig = WarmUpConfig()
    fine_tune: FineTuneConfig = FineTuneConfig()


class CrossValidationConfig(Section):
    """How many parts the training images are cut into."""

    folds: Annotated[int, Field(ge=2, le=20)] = 5


class ExportConfig(Section):
    """The ONNX file. ``max_abs_error`` bounds the difference of any probability from torch's."""

    opset: Annotated[int, Field(ge=18, le=23)] = 20
    max_abs_error: PositiveFloat = 5e-3
    parity_images: PositiveInt = 32


class RegistryConfig(Section):
    """The name under which models are registered, in MLflow and in ZenML."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)] = "graft-classifier"


class GateConfig(Section):
    """What a challenger must show before it becomes champion.

    ``significance`` is the level of a one-sided exact McNemar test: below it, worse counts as clearly worse.
    """

    min_accuracy: Annotated[float, Field(ge=0, le=1)] = 0.8
    min_images: PositiveInt = 20
    significance: Annotated[float, Field(gt=0, lt=1)] = 0.05


class TrainingParameters(Section):
    """All that ``training_pipeline`` takes."""

    data: DataConfig
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    cross_validation: CrossValidationConfig = CrossValidationConfig()
    export: ExportConfig = ExportConfig()
    registry: RegistryConfig = RegistryConfig()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class PromotionParameters(Section):
    """All that ``promotion_pipeline`` takes."""

    data: DataConfig
    registry: RegistryConfig
    gate: GateConfig


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
    if isinstance(root, DataConfig) and not Path(root.root).exists():
        raise ConfigError(
            f"{where}: data.root is {root.root!r}, which does not exist; give the folder of your images."
        )
    return parsed


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
