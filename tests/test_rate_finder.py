"""The learning-rate finder suggests where the loss falls fastest, and draws it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graft.cli import main
from graft.errors import TrainingError
from graft.rate_finder import LOWEST, steepest

CONFIG = """
parameters:
  data:
    root: {root}
    validation: {{min_side_px: 8, min_file_bytes: 50, near_duplicate_bits: 0}}
  model: {{architecture: mobilenet_v3_small, weights: letters}}
  training:
    strategy: {strategy}
    batch_size: 16
    warm_up: {{epochs: 1, learning_rate: 0.01}}
"""


def test_the_suggestion_is_where_a_known_curve_falls_fastest() -> None:
    rates = list(np.geomspace(1e-6, 1, 61))
    losses = [float(2 - np.tanh(3 + np.log10(rate))) + 5 * (rate > 0.3) for rate in rates]
    assert steepest(rates, losses) == pytest.approx(1e-3, rel=0.3)


def test_a_loss_that_only_rises_is_an_error() -> None:
    with pytest.raises(TrainingError, match="falls at no learning rate"):
        steepest([1e-6, 1e-5, 1e-4], [1.0, 2.0, 3.0])


@pytest.mark.parametrize("phase", ["warm_up", "fine_tune"])
def test_the_command_suggests_a_rate_and_draws_the_curve(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], phase: str
) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG.format(root=digits, strategy="last_stages"))
    figure = tmp_path / "curve.png"
    assert main(["find-lr", str(tmp_path / "c.yaml"), "--phase", phase, "--figure", str(figure)]) == 0
    said = capsys.readouterr().out
    assert f"training.{phase}.learning_rate: " in said
    assert LOWEST < float(said.split("learning_rate: ")[1].split(";")[0]) < 1
    with Image.open(figure) as image:
        assert image.width > 300


@pytest.mark.parametrize("figure", ["curve.jpg", "nowhere/curve.png"])
def test_a_place_where_no_curve_can_be_drawn_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], figure: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["find-lr", "no.yaml", "--figure", str(tmp_path / figure)])
    assert "must end in .png and lie in a folder that exists" in capsys.readouterr().err


def test_a_strategy_that_thaws_nothing_has_no_rate_of_fine_tuning(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG.format(root=digits, strategy="head_only"))
    assert main(["find-lr", str(tmp_path / "c.yaml"), "--phase", "fine_tune"]) == 2
    assert "under which nothing thaws" in capsys.readouterr().err
