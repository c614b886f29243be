"""Saves the results of a benchmark as JSON."""

from __future__ import annotations

import json
from pathlib import Path


def save_results(results: object, path: Path | None) -> None:
    """Write the results if a path is given; benchmarks call this after every measurement."""
    if path:
        path.write_text(json.dumps(results, indent=1))
