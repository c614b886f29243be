"""Mutated copies of real files neither crash nor hang a decoder, and scan and training agree on each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "fuzz_images.py"


@pytest.mark.real_data
def test_two_thousand_cases(real_data: Path) -> None:
    command = [
        sys.executable,
        str(SCRIPT),
        str(real_data / "data" / "ants_bees"),
        "--cases",
        "2000",
        "--seed",
        "2",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2000 cases, seed 2" in done.stdout
