"""Mutated copies of real images neither crash nor hang a decoder, and scan and training agree on each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "fuzz_images.py"


@pytest.mark.real_data
def test_fuzzing_finds_no_crash_in_two_thousand_cases(real_data: Path) -> None:
    command = [
        sys.executable,
        str(SCRIPT),
        str(real_data / "data" / "ants_bees"),
        "--cases",
        "2000",
        "--seed",
        "2",
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2000 cases, seed 2" in result.stdout
