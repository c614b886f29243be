"""Run a pipeline from a config file with some of its values replaced."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Literal

import click
import yaml

from graft.config_file import read_yaml, with_overrides
from graft.errors import GraftError
from graft.garbage import importing
from graft.runtime.stack import tracking_uri
from graft.runtime.strict import StrictPipeline, check_config


def run(kind: Literal["training", "promotion"], config: Path, assignments: list[str]) -> None:
    """Check the config with its overrides, then run a pipeline with it.

    Raises ``ConfigError`` before anything has started, and any ``GraftError`` of a step.
    """
    tracking_uri()
    with importing():
        pipeline = getattr(importlib.import_module(f"pipelines.{kind}"), f"{kind}_pipeline")
    assert isinstance(pipeline, StrictPipeline)
    content = with_overrides(read_yaml(config), assignments)
    check_config(content, pipeline, str(config))
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        yaml.safe_dump(content, file, allow_unicode=True)
        file.flush()
        try:
            pipeline.with_checked_options(config_path=file.name)()
        except click.ClickException as refusal:
            error = GraftError(refusal.message)
            error.exit_code = refusal.exit_code
            raise error from None
