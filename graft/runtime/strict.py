"""Pipelines that check the whole config before anything starts, and report errors as one sentence."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import click
from pydantic import BaseModel, ValidationError
from zenml.client import Client
from zenml.config.docker_settings import DockerSettings
from zenml.config.pipeline_run_configuration import PipelineRunConfiguration
from zenml.config.resource_settings import ResourceSettings
from zenml.config.step_configurations import StepConfigurationUpdate
from zenml.enums import ExecutionMode
from zenml.pipelines.pipeline_definition import Pipeline

from graft.config import TrainingParameters
from graft.config_file import allowed_keys, describe, parse_parameters, read_yaml
from graft.errors import ConfigError, GraftError
from graft.networks.backbones import check as check_model
from graft.recipe import check as check_recipe
from graft.runtime.quiet import silence
from graft.runtime.stack import tracking_uri
from graft.section import Section


class Refusal(click.ClickException):
    """An error of the user's as the command line shows it: a sentence and an exit code."""

    def __init__(self, error: GraftError) -> None:
        super().__init__(str(error))
        self.exit_code = error.exit_code  # type: ignore[misc]  # click declares it on the class


class StrictPipeline(Pipeline):
    """A pipeline whose config file is checked, key by key, before ZenML reads it.

    ZenML itself ignores keys that it does not know; here a typo is an error, also through
    ``zenml pipeline run``.
    """

    parameters_type: type[Section]

    def step_names(self, parameters: Section) -> list[str]:
        """The names of the steps under these parameters: those that ``steps:`` of a config may hold."""
        probe = self.copy()
        probe.prepare(**{name: getattr(parameters, name) for name in type(parameters).model_fields})
        return list(probe.invocations)

    def with_options(self, *args: Any, **kwargs: Any) -> StrictPipeline:  # noqa: ANN401
        """Check ``config_path``, then do what ZenML does."""
        path = kwargs.get("config_path")
        try:
            tracking_uri()
            if path is None:
                raise ConfigError(f"{self.name} needs a config file: -c configs/<file>.yaml.")
            check_config(read_yaml(Path(path)), self, str(path))
        except GraftError as error:
            raise Refusal(error) from None
        return self.with_checked_options(*args, **kwargs)

    def with_checked_options(self, *args: Any, **kwargs: Any) -> StrictPipeline:  # noqa: ANN401
        """Do what ZenML does with a config that ``check_config`` has passed."""
        configured = super().with_options(*args, **kwargs)
        assert isinstance(configured, StrictPipeline)
        return configured

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Run; an error that the user can mend ends as one sentence."""
        silence()
        try:
            return super().__call__(*args, **kwargs)
        except Exception as error:
            mendable = next((one for one in _chain(error) if isinstance(one, GraftError)), None)
            if mendable is None:
                raise
            raise Refusal(mendable) from None


def strict_pipeline(parameters_type: type[Section]) -> Callable[[Callable[..., None]], StrictPipeline]:
    """Make a function a pipeline that takes the fields of ``parameters_type``."""

    def decorate(function: Callable[..., None]) -> StrictPipeline:
        assert list(inspect.signature(function).parameters) == list(parameters_type.model_fields)
        pipeline = StrictPipeline(
            name=function.__name__, entrypoint=function, execution_mode=ExecutionMode.FAIL_FAST
        )
        pipeline.parameters_type = parameters_type
        pipeline.__doc__ = function.__doc__
        return pipeline

    return decorate


def check_config(content: Mapping[str, Any], pipeline: StrictPipeline, where: str) -> Section:
    """Check a whole config file; raises ``ConfigError`` with one sentence about the first thing wrong."""
    _refuse_unknown(content, list(PipelineRunConfiguration.model_fields), where, "")
    parameters = parse_parameters(pipeline.parameters_type, content, where)
    if isinstance(parameters, TrainingParameters):
        try:
            check_model(parameters.model)
            check_recipe(parameters.model, parameters.training)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
    _check_settings(content.get("settings"), where, "settings")
    steps = content.get("steps") or {}
    _refuse_unknown(steps, pipeline.step_names(parameters), where, "steps")
    for name, options in steps.items():
        place = f"steps.{name}"
        _refuse_unknown(options, list(StepConfigurationUpdate.model_fields), where, place)
        if "parameters" in options:
            raise ConfigError(
                f"{where}: {place}.parameters would bypass the checks; set the value under parameters."
            )
        _check_settings(options.get("settings"), where, f"{place}.settings")
        _check_nested(options, StepConfigurationUpdate, where, f"{place}.")
    rest = {name: value for name, value in content.items() if name != "parameters"}
    _check_nested(rest, PipelineRunConfiguration, where, "")
    try:
        PipelineRunConfiguration.model_validate(rest)
    except ValidationError as error:
        raise ConfigError(f"{where}: {describe(error, PipelineRunConfiguration)}") from error
    return parameters


def _check_settings(settings: object, where: str, place: str) -> None:
    """Settings by their key: those of ZenML itself, and those of the active stack's components."""
    if settings is None:
        return
    known: dict[str, type[BaseModel]] = {"docker": DockerSettings, "resources": ResourceSettings}
    known |= Client().active_stack.setting_classes
    _refuse_unknown(settings, list(known), where, place)
    assert isinstance(settings, Mapping)
    for key, values in settings.items():
        _refuse_unknown(values, list(known[key].model_fields), where, f"{place}.{key}")
        try:
            known[key].model_validate(values)
        except ValidationError as error:
            raise ConfigError(f"{where}: {place}.{key}: {describe(error, known[key])}") from error


def _check_nested(content: Mapping[str, Any], kind: type[BaseModel], where: str, place: str) -> None:
    """Refuse unknown keys inside ZenML's own nested types, such as ``model`` and ``retry``."""
    for name, value in content.items():
        field = kind.model_fields.get(name)
        inner = _model_type(field.annotation) if field else None
        if inner is not None and isinstance(value, Mapping):
            _refuse_unknown(value, list(inner.model_fields), where, f"{place}{name}")
            _check_nested(value, inner, where, f"{place}{name}.")


def _model_type(annotation: object) -> type[BaseModel] | None:
    candidates = (annotation, *get_args(annotation))
    return next((one for one in candidates if isinstance(one, type) and issubclass(one, BaseModel)), None)


def _refuse_unknown(mapping: object, known: list[str], where: str, place: str) -> None:
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{where}: {place or 'the file'} is {mapping!r}; it must be a mapping.")
    for key in mapping:
        if key not in known:
            full = f"{place}.{key}".lstrip(".")
            raise ConfigError(f"{where}: unknown key {full!r}; {allowed_keys(known, str(key))}")


def _chain(error: BaseException | None) -> list[BaseException]:
    """An error and what caused it, outermost first."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
