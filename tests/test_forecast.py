"""The forecast: cache size, durations, and what is cached already."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from graft.cli import main
from graft.config.parameters import TrainingParameters
from graft.features.image_cache import cached_eval_reader, cached_reader
from graft.models.backbones import preprocessing_for
from graft.models.transforms import training_transform
from graft.training.forecast import Forecast, forecast
from graft.training.recipe import precompute_features, training_images
from graft.training.standalone import prepare_standalone


@pytest.fixture
def parameters(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingParameters:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path))
    return TrainingParameters.model_validate({
        "data": {
            "root": str(digits), "validation": {"min_side_px": 8, "min_file_bytes": 50, "near_duplicate_bits": 0},
        },
        "model": {"architecture": "mobilenet_v3_small", "weights": "letters"},
        "training": {
            "strategy": "gradual", "fine_tune": {"epochs": 3, "unfreeze_epochs": [0, 2]},
            "cache": {"precision": "float32"},
        },
    })  # fmt: skip


def with_training(parameters: TrainingParameters, **values: Any) -> TrainingParameters:  # noqa: ANN401
    return parameters.model_copy(update={"training": parameters.training.model_copy(update=values)})


def cached_bytes(cache: Path) -> int:
    return sum(path.stat().st_size for path in cache.glob("tensors/*/*.safetensors"))


def test_forecast_of_the_cache_is_the_size_of_the_features_and_0_once_they_are_cached(
    parameters: TrainingParameters, tmp_path: Path
) -> None:
    plan, before = forecast(parameters)
    assert cached_bytes(tmp_path) == 0
    precompute_features(*prepare_standalone(parameters), parameters.training, plan)
    assert cached_bytes(tmp_path) == pytest.approx(before.cache_bytes, rel=0.3)
    _, after = forecast(parameters)
    assert after.cache_bytes == 0
    assert after.seconds["frozen layers"] == 0
    assert after.disk_bytes == before.disk_bytes - before.cache_bytes


def test_forecast_grows_with_epochs(parameters: TrainingParameters) -> None:
    longer = parameters.training.fine_tune.model_copy(update={"epochs": 300})
    _, short = forecast(parameters)
    _, long = forecast(with_training(parameters, fine_tune=longer))
    assert long.seconds["training"] > 10 * short.seconds["training"]
    assert long.memory_bytes > 100_000_000


def test_forecast_covers_training_from_images(parameters: TrainingParameters) -> None:
    _, expected = forecast(with_training(parameters, batch_norm="adapt"))
    assert expected.seconds["decoding"] > 0
    assert expected.seconds["frozen layers"] == 0
    assert expected.seconds["training"] > 0


def test_forecast_of_the_cache_is_the_size_of_the_decoded_images_and_0_once_they_are_cached(
    parameters: TrainingParameters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The digits are so small that reading them from the cache may be slower than decoding.
    monkeypatch.setattr("graft.cache.writer.BENCHMARK_BATCHES", None)
    parameters = with_training(parameters, batch_norm="adapt")
    training = parameters.training
    _, before = forecast(parameters)
    split, model = prepare_standalone(parameters)
    images = training_images(split, preprocessing_for(model.config))
    transform = training_transform(training.augmentation, images.dataset.preprocessing)
    cached_reader(images.dataset, images.train, transform, training.cache)
    cached_eval_reader(images.dataset, pd.concat([images.train, images.validation]), training.cache)
    _, after = forecast(parameters)
    assert before.cache_bytes == pytest.approx(cached_bytes(tmp_path), rel=0.3)
    assert after.cache_bytes == 0


@pytest.mark.parametrize(("seconds", "text"), [(50.4, "50 s"), (150.0, "2 min"), (7200.0, "2.0 h")])
def test_forecast_shows_durations_in_a_suitable_unit(seconds: float, text: str) -> None:
    expected = Forecast({"training": seconds}, 10**9, 10**6, 0)
    assert expected.describe().startswith(f"Time    about {text} (training {text})")
    assert "0 MB of it in the cache" in replace(expected, disk_bytes=5 * 10**6).describe()


def test_plan_command_prints_the_table_and_the_forecast(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(f"""
parameters:
  data: {{root: {digits}, validation: {{min_side_px: 8, min_file_bytes: 50, near_duplicate_bits: 0}}}}
  model: {{architecture: mobilenet_v3_small, weights: letters}}
""")
    assert main(["plan", str(tmp_path / "c.yaml")]) == 0
    output = capsys.readouterr().out
    assert "unfrozen at epoch" in output
    assert output.index("Time    about") < output.index("Memory  about") < output.index("Disk    about")
