"""Steps that are cached by their inputs, their parameters, and all code of Graft that they reach."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from zenml import step
from zenml.config.cache_policy import CachePolicy
from zenml.steps import BaseStep

from graft.integrations.code_hash import code_hash


def cached_step(**options: Any) -> Callable[[Callable[..., Any]], BaseStep]:  # noqa: ANN401
    """ZenML's ``step`` with ``code_hash`` in its cache key, which by default covers the step's own source only."""

    def decorate(function: Callable[..., Any]) -> BaseStep:
        def step_code_hash() -> str:
            return code_hash(function)

        # ZenML looks the function up by its name in the step's module, so it is added there.
        step_code_hash.__module__ = function.__module__
        step_code_hash.__name__ = step_code_hash.__qualname__ = f"{function.__name__}_code_hash"
        setattr(sys.modules[function.__module__], step_code_hash.__name__, step_code_hash)
        return step(cache_policy=CachePolicy(cache_func=step_code_hash), **options)(function)

    return decorate
