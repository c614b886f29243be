"""The learning-rate finder: its suggestion, its figure and its command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graft.cli import main
from graft.errors import TrainingError
from graft.reports.training_figures import lr_finder_curve
from graft.training.lr_finder import MIN_LR, LRFinderResult, suggest

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


def test_suggestion_is_a_tenth_of_the_learning_rate_with_the_lowest_loss() -> None:
    lrs = list(np.geomspace(1e-6, 1, 61))
    losses = [2 + 0.1 * abs(float(np.log10(lr)) + 1) for lr in lrs]
    losses[:2] = [1.0, 1.5]  # the noisy start, which must not count
    assert suggest(lrs, losses) == pytest.approx(1e-2)


@pytest.mark.parametrize("decrease", [0.0, 0.03])
def test_loss_that_hardly_decreases_is_an_error(decrease: float) -> None:
    lrs = list(np.geomspace(1e-6, 1, 61))
    with pytest.raises(TrainingError, match="decreases at no learning rate"):
        suggest(lrs, [1 - decrease * (n > 30) + (n > 50) for n in range(61)])


@pytest.mark.parametrize("phase", ["warm_up", "fine_tune"])
def test_find_lr_command_suggests_a_learning_rate_and_plots_the_curve(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], phase: str
) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG.format(root=digits, strategy="last_stages"))
    figure = tmp_path / "curve.png"
    assert main(["find-lr", str(tmp_path / "c.yaml"), "--phase", phase, "--figure", str(figure)]) == 0
    output = capsys.readouterr().out
    assert f"training.{phase}.learning_rate: " in output
    assert MIN_LR < float(output.split("learning_rate: ")[1].split(";")[0]) < 1
    with Image.open(figure) as image:
        assert image.width > 300


def test_lr_finder_curve_labels_learning_rates_in_plain_text() -> None:
    figure = lr_finder_curve(
        LRFinderResult([1e-4, 1e-3, 1e-2], [2.0, 1.5, 1.0], 1e-3), "training.warm_up.learning_rate"
    )
    figure.canvas.draw()
    labels = [label.get_text().replace("\N{MINUS SIGN}", "-") for label in figure.axes[0].get_xticklabels(which="both")]
    assert "1e-03" in labels
    assert not [label for label in labels if "$" in label]


@pytest.mark.parametrize("figure", ["curve.jpg", "nowhere/curve.png"])
def test_find_lr_command_refuses_an_unwritable_figure_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], figure: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["find-lr", "no.yaml", "--figure", str(tmp_path / figure)])
    assert "must end in .png and be in an existing folder" in capsys.readouterr().err


def test_find_lr_command_refuses_fine_tune_if_the_strategy_unfreezes_nothing(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG.format(root=digits, strategy="head_only"))
    assert main(["find-lr", str(tmp_path / "c.yaml"), "--phase", "fine_tune"]) == 2
    assert "which has no fine-tuning phase here" in capsys.readouterr().err
