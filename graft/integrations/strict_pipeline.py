"""Pipelines that validate the whole config before anything starts, and report user errors as one sentence."""

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

from graft.config.parameters import TrainingParameters
from graft.config.strict_model import StrictModel
from graft.config.yaml_file import parse_parameters, read_yaml, validation_message
from graft.errors import ConfigError, GraftError, did_you_mean
from graft.integrations.logging_setup import install_step_error_filter
from graft.integrations.run_process import tagged_runs
from graft.integrations.stack import connect_mlflow
from graft.integrations.user_errors import user_error
from graft.interrupts import Stopped, stoppable
from graft.models.model_checks import check_model_config
from graft.training.config_checks import check_training_config


class CommandError(click.ClickException):
    """A user error for click: one sentence and an exit code, without a traceback."""

    def __init__(self, error: GraftError) -> None:
        super().__init__(str(error))
        self.exit_code = error.exit_code  # type: ignore[misc]  # click declares it on the class


class StrictPipeline(Pipeline):
    """A pipeline whose config file is validated, key by key, before ZenML reads it.

    ZenML ignores unknown keys; here a typo is an error, also with ``zenml pipeline run``.
    """

    parameters_type: type[StrictModel]
    parameters: StrictModel | None = None  # those of the checked config

    def step_names(self, parameters: StrictModel) -> list[str]:
        """The names of the steps with these parameters: the keys allowed under ``steps:`` of a config."""
        probe = self.copy()
        probe.prepare(**{name: getattr(parameters, name) for name in type(parameters).model_fields})
        return list(probe.invocations)

    def with_options(self, *args: Any, **kwargs: Any) -> StrictPipeline:  # noqa: ANN401
        """Check the file ``config_path``, then configure the pipeline as ZenML does; raises ``CommandError``."""
        path = kwargs.get("config_path")
        try:
            connect_mlflow()
            if path is None:
                raise ConfigError(f"{self.name} needs a config file: -c configs/<file>.yaml.")
            parameters = check_config(read_yaml(Path(path)), self, str(path))
        except GraftError as error:
            raise CommandError(error) from None
        return self.with_checked_options(parameters, *args, **kwargs)

    def with_checked_options(self, parameters: StrictModel, *args: Any, **kwargs: Any) -> StrictPipeline:  # noqa: ANN401
        """Configure the pipeline as ZenML does, with a config whose parameters ``check_config`` returned."""
        configured = super().with_options(*args, **kwargs)
        assert isinstance(configured, StrictPipeline)
        configured.parameters = parameters
        return configured

    def _parse_config_file(self, config_path: str | None, matcher: list[str]) -> dict[str, Any]:
        """Parse as ZenML does, but read parameters as they were checked: text as it is written."""
        options = super()._parse_config_file(config_path, matcher)
        if config_path and "parameters" in options:
            options["parameters"] = read_yaml(Path(config_path))["parameters"]
        return options

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Run the pipeline; raises ``CommandError`` if the failure has a cause that the user can remove.

        After Ctrl-C or SIGTERM it raises ``Stopped``, in ``zenml pipeline run`` ``SystemExit``.
        """
        install_step_error_filter()
        try:
            with stoppable(), tagged_runs(self.parameters):
                return super().__call__(*args, **kwargs)
        except Stopped as stopped:
            if click.get_current_context(silent=True) is None:
                raise
            click.echo(stopped, err=True)
            raise SystemExit(stopped.exit_code) from None  # click itself would exit with 1
        except Exception as error:
            known = user_error(error)
            if known is None:
                raise
            raise CommandError(known) from None


def strict_pipeline(parameters_type: type[StrictModel]) -> Callable[[Callable[..., None]], StrictPipeline]:
    """A decorator: the function becomes a pipeline whose parameters are the fields of ``parameters_type``."""

    def decorate(function: Callable[..., None]) -> StrictPipeline:
        assert list(inspect.signature(function).parameters) == list(parameters_type.model_fields)
        pipeline = StrictPipeline(name=function.__name__, entrypoint=function, execution_mode=ExecutionMode.FAIL_FAST)
        pipeline.parameters_type = parameters_type
        pipeline.__doc__ = function.__doc__
        return pipeline

    return decorate


def check_config(content: Mapping[str, Any], pipeline: StrictPipeline, source: str) -> StrictModel:
    """Check a whole config; returns its parameters, or raises ``ConfigError`` for the first problem.

    ``source`` names the file in error messages.
    """
    _check_keys(content, list(PipelineRunConfiguration.model_fields), source, "")
    parameters = parse_parameters(pipeline.parameters_type, content, source)
    if isinstance(parameters, TrainingParameters):
        try:
            check_model_config(parameters.model)
            check_training_config(parameters.model, parameters.training)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from error
    _check_settings(content.get("settings"), source, "settings")
    steps = content.get("steps") or {}
    _check_keys(steps, pipeline.step_names(parameters), source, "steps")
    for name, options in steps.items():
        section = f"steps.{name}"
        _check_keys(options, list(StepConfigurationUpdate.model_fields), source, section)
        if "parameters" in options:
            raise ConfigError(
                f"{source}: {section}.parameters would bypass the checks; set the value under parameters."
            )
        _check_settings(options.get("settings"), source, f"{section}.settings")
        _check_nested(options, StepConfigurationUpdate, source, f"{section}.")
    zenml_options = {name: value for name, value in content.items() if name != "parameters"}
    _check_nested(zenml_options, PipelineRunConfiguration, source, "")
    try:
        PipelineRunConfiguration.model_validate(zenml_options)
    except ValidationError as error:
        raise ConfigError(f"{source}: {validation_message(error, PipelineRunConfiguration)}") from error
    return parameters


def _check_settings(settings: object, source: str, section: str) -> None:
    """Check ``settings:`` by key: ZenML's own, and those of the active stack's components."""
    if settings is None:
        return
    types: dict[str, type[BaseModel]] = {"docker": DockerSettings, "resources": ResourceSettings}
    types |= Client().active_stack.setting_classes
    _check_keys(settings, list(types), source, section)
    assert isinstance(settings, Mapping)
    for key, values in settings.items():
        _check_keys(values, list(types[key].model_fields), source, f"{section}.{key}")
        try:
            types[key].model_validate(values)
        except ValidationError as error:
            raise ConfigError(f"{source}: {section}.{key}: {validation_message(error, types[key])}") from error


def _check_nested(content: Mapping[str, Any], model_type: type[BaseModel], source: str, prefix: str) -> None:
    """Check the keys inside ZenML's own nested types, such as ``model`` and ``retry``."""
    for name, value in content.items():
        field = model_type.model_fields.get(name)
        inner = _inner_model(field.annotation) if field else None
        if inner is not None and isinstance(value, Mapping):
            _check_keys(value, list(inner.model_fields), source, f"{prefix}{name}")
            _check_nested(value, inner, source, f"{prefix}{name}.")


def _inner_model(annotation: object) -> type[BaseModel] | None:
    candidates = (annotation, *get_args(annotation))
    return next((kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _check_keys(mapping: object, allowed: list[str], source: str, section: str) -> None:
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{source}: {section or 'the file'} is {mapping!r}; it must be a mapping.")
    for key in mapping:
        if key not in allowed:
            path = f"{section}.{key}".lstrip(".")
            raise ConfigError(f"{source}: unknown key {path!r}; {did_you_mean(allowed, str(key))}")
