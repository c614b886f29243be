"""The learning-rate finder suggests a rate, and draws the loss over it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graft.cli import main
from graft.errors import TrainingError
from graft.rate_finder import LOWEST, RateCurve, suggest
from graft.reports.figures import rate_curve

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


def test_the_suggestion_is_a_tenth_of_where_a_known_curve_is_lowest() -> None:
    rates = list(np.geomspace(1e-6, 1, 61))
    losses = [2 + 0.1 * abs(float(np.log10(rate)) + 1) for rate in rates]
    losses[:2] = [1.0, 1.5]  # before the average has settled
    assert suggest(rates, losses) == pytest.approx(1e-2)


@pytest.mark.parametrize("falls", [0.0, 0.03])
def test_a_loss_that_hardly_falls_is_an_error(falls: float) -> None:
    rates = list(np.geomspace(1e-6, 1, 61))
    with pytest.raises(TrainingError, match="falls at no learning rate"):
        suggest(rates, [1 - falls * (n > 30) + (n > 50) for n in range(61)])


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


def test_the_axis_names_rates_in_plain_text() -> None:
    figure = rate_curve(RateCurve([1e-4, 1e-3, 1e-2], [2.0, 1.5, 1.0], 1e-3), "training.warm_up.learning_rate")
    figure.canvas.draw()
    labels = [
        label.get_text().replace("\N{MINUS SIGN}", "-") for label in figure.axes[0].get_xticklabels(which="both")
    ]
    assert "1e-03" in labels
    assert not [label for label in labels if "$" in label]


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
