"""Steps that are cached by their inputs, their parameters, and all code that they reach."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from zenml import step
from zenml.config.cache_policy import CachePolicy
from zenml.steps import BaseStep

from graft.runtime.code_version import code_version


def cached_step(**options: Any) -> Callable[[Callable[..., Any]], BaseStep]:  # noqa: ANN401
    """Like ZenML's ``step``, which by itself looks at the step's own source alone.

    ZenML finds the function that adds to the cache key by its name in the step's module, so one is put there.
    """

    def decorate(function: Callable[..., Any]) -> BaseStep:
        def version() -> str:
            return code_version(function)

        version.__module__ = function.__module__
        version.__name__ = version.__qualname__ = f"{function.__name__}_code_version"
        setattr(sys.modules[function.__module__], version.__name__, version)
        return step(cache_policy=CachePolicy(cache_func=version), **options)(function)

    return decorate
