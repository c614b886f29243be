"""What a benchmark found, kept in a file as soon as it is known."""

from __future__ import annotations

import json
from pathlib import Path


def keep(found: object, file: Path | None) -> None:
    """Write the figures, where a file is named."""
    if file:
        file.write_text(json.dumps(found, indent=1))
