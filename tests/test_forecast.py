"""A forecast says what will be on disk, sees what is there already, and trains nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from graft.cli import main
from graft.config import TrainingParameters
from graft.data.manifest import scan
from graft.data.splits import split_images
from graft.data.validation import validate
from graft.forecast import Forecast, forecast
from graft.inputs.filling import kept_crops, kept_pixels
from graft.networks.backbones import preprocessing
from graft.networks.transforms import training_transform
from graft.networks.weights import pin
from graft.recipe import images_of, keep_frozen, prepare


@pytest.fixture
def parameters(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingParameters:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    return TrainingParameters.model_validate({
        "data": {
            "root": str(digits), "validation": {"min_side_px": 8, "min_file_bytes": 50, "near_duplicate_bits": 0},
        },
        "model": {"architecture": "mobilenet_v3_small", "weights": "letters"},
        "training": {
            "strategy": "gradual", "fine_tune": {"epochs": 3, "thaw_epochs": [0, 2]},
            "cache": {"precision": "float32"},
        },
    })  # fmt: skip


def stored(cache: Path) -> int:
    return sum(path.stat().st_size for path in cache.glob("kept/*/*.safetensors"))


def test_the_disk_is_what_activations_will_take_and_less_once_they_are_there(
    parameters: TrainingParameters, tmp_path: Path
) -> None:
    plan, before = forecast(parameters)
    assert stored(tmp_path / "cache") == 0
    data = parameters.data
    manifest = scan(data.root, data.limits)
    split = split_images(manifest, validate(manifest, data.validation).clusters, data.split)
    keep_frozen(split.folder(), split, pin(parameters.model), parameters.training, plan)
    assert stored(tmp_path / "cache") == pytest.approx(before.kept_bytes, rel=0.3)
    _, after = forecast(parameters)
    assert after.kept_bytes == 0
    assert after.seconds["frozen layers"] == 0
    assert after.disk_bytes == before.disk_bytes - before.kept_bytes


def test_more_epochs_and_folds_take_longer(parameters: TrainingParameters) -> None:
    longer = parameters.training.fine_tune.model_copy(update={"epochs": 300})
    training = parameters.training.model_copy(update={"fine_tune": longer})
    _, short = forecast(parameters)
    _, long = forecast(parameters.model_copy(update={"training": training}))
    assert long.seconds["training"] > 10 * short.seconds["training"]
    assert long.memory_bytes > 100_000_000


def test_all_from_pixels_is_forecast_as_well(parameters: TrainingParameters) -> None:
    training = parameters.training.model_copy(update={"batch_norm": "adapt"})
    _, expected = forecast(parameters.model_copy(update={"training": training}))
    assert expected.seconds["decoding"] > 0
    assert expected.seconds["frozen layers"] == 0
    assert expected.seconds["training"] > 0


def test_the_disk_is_what_pixels_will_take_and_less_once_they_are_there(
    parameters: TrainingParameters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graft.cache.lack.TRIED", None)  # images of tests are so small that keeping may not pay
    training = parameters.training.model_copy(update={"batch_norm": "adapt"})
    parameters = parameters.model_copy(update={"training": training})
    _, before = forecast(parameters)
    split, model = prepare(parameters)
    images = images_of(split.folder(), split, preprocessing(model.config))
    every = pd.concat([images.train, images.validation])
    kept_pixels(
        images.source, images.train, training_transform(training.augmentation, images.source.preprocessing),
        training.cache,
    )  # fmt: skip
    kept_crops(images.source, every, training.cache)
    _, after = forecast(parameters)
    pixels = sum(path.stat().st_size for path in (tmp_path / "cache" / "kept").glob("*/*.safetensors"))
    assert before.kept_bytes == pytest.approx(pixels, rel=0.3)
    assert after.kept_bytes == 0


@pytest.mark.parametrize(("seconds", "words"), [(50.4, "50 s"), (150.0, "2 min"), (7200.0, "2.0 h")])
def test_durations_are_said_in_the_unit_that_suits_them(seconds: float, words: str) -> None:
    said = Forecast({"training": seconds}, 10**9, 10**6, 0)
    assert said.in_words().startswith(f"Time    about {words} (training {words})")
    assert "0 MB of it in the cache" in replace(said, disk_bytes=5 * 10**6).in_words()


def test_the_command_prints_table_and_forecast(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(f"""
parameters:
  data: {{root: {digits}, validation: {{min_side_px: 8, min_file_bytes: 50, near_duplicate_bits: 0}}}}
  model: {{architecture: mobilenet_v3_small, weights: letters}}
""")
    assert main(["plan", str(tmp_path / "c.yaml")]) == 0
    said = capsys.readouterr().out
    assert "thaws at epoch" in said
    assert said.index("Time    about") < said.index("Memory  about") < said.index("Disk    about")
