"""Runs a pipeline from a config file with overrides."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Literal

import click
import yaml

from graft.config.yaml_file import read_yaml, with_overrides
from graft.errors import GraftError
from graft.gc_tuning import gc_paused
from graft.integrations.stack import connect_mlflow
from graft.integrations.strict_pipeline import StrictPipeline, check_config


def run(name: Literal["training", "promotion"], config: Path, assignments: list[str]) -> None:
    """Check the config with its overrides, then run a pipeline with it.

    Raises ``ConfigError`` before anything has started, and the ``GraftError`` of a failed step.
    """
    connect_mlflow()
    with gc_paused():
        pipeline = getattr(importlib.import_module(f"pipelines.{name}"), f"{name}_pipeline")
    assert isinstance(pipeline, StrictPipeline)
    content = with_overrides(read_yaml(config), assignments)
    parameters = check_config(content, pipeline, str(config))
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        yaml.safe_dump(content, file, allow_unicode=True)
        file.flush()
        try:
            pipeline.with_checked_options(parameters, config_path=file.name)()
        except click.ClickException as click_error:
            error = GraftError(click_error.message)
            error.exit_code = click_error.exit_code
            raise error from None
