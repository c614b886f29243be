"""Compute settings are benchmarked once, used if clearly faster, and cached."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from graft.compute.autotune import autotune
from graft.compute.devices import Compute
from graft.config.parameters import ModelConfig
from graft.config.training import ComputeConfig, FineTuneConfig, LoraConfig, TrainLoopConfig
from graft.models.backbones import build_model
from graft.training.plan import StagePlan, TrainingPlan
from graft.training.strategy import HEAD_ONLY, Candidate

NETWORK = build_model(ModelConfig(architecture="mobilenet_v3_small", weights="letters"), 10, seed=0)
AUTO = ComputeConfig(device="cpu")
BASELINE = ComputeConfig(device="cpu", precision="float32", channels_last=True, threads=torch.get_num_threads())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    return tmp_path / "compute"


def mock_time_ratios(monkeypatch: pytest.MonkeyPatch, *ratios: float) -> list[ComputeConfig]:
    """Replace measurements by these ratios, in order; returns a list that collects the candidates."""
    candidates, remaining = list[ComputeConfig](), iter(ratios)

    def time_ratio(candidate: ComputeConfig, *_: object) -> float:
        candidates.append(candidate)
        return next(remaining)

    monkeypatch.setattr("graft.compute.autotune._time_ratio", time_ratio)
    return candidates


def test_autotune_decides_every_auto_and_caches_the_result(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="graft.compute.autotune")
    config = autotune(AUTO, NETWORK)
    assert "auto" not in config.model_dump().values()
    assert f"Computes in {config.precision} on cpu" in caplog.text
    assert autotune(AUTO, NETWORK) == config
    assert len(caplog.messages) == 1
    assert len(list(cache.iterdir())) == 1


def test_autotune_uses_a_clearly_faster_candidate_and_measures_the_next_against_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    candidates = mock_time_ratios(monkeypatch, 0.5, 0.6)
    config = autotune(AUTO, NETWORK)
    assert config == BASELINE.model_copy(update={"channels_last": False, "precision": "bfloat16"})
    assert [candidate.precision for candidate in candidates] == ["float32", "bfloat16"]
    assert not any(candidate.channels_last for candidate in candidates)


def test_autotune_ignores_a_candidate_that_is_hardly_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    mock_time_ratios(monkeypatch, 0.9, 1.2)
    assert autotune(AUTO, NETWORK) == BASELINE


def test_autotune_does_not_benchmark_settings_that_the_config_fixes(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    candidates = mock_time_ratios(monkeypatch)
    assert autotune(BASELINE, NETWORK) == BASELINE
    assert not candidates
    mock_time_ratios(monkeypatch, 0.1)
    config = ComputeConfig(device="cpu", channels_last=False)
    assert autotune(config, NETWORK).precision == "bfloat16"
    assert autotune(config, NETWORK).channels_last is False
    assert len(list(cache.iterdir())) == 1


def test_autotune_benchmarks_threads_unless_the_environment_sets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4 * torch.get_num_threads())
    config = BASELINE.model_copy(update={"threads": "auto"})
    assert autotune(config, NETWORK) == BASELINE
    monkeypatch.delenv("OMP_NUM_THREADS")
    candidates = mock_time_ratios(monkeypatch, 0.9, 0.5)
    assert autotune(config, NETWORK).threads == 2 * torch.get_num_threads()
    assert [candidate.threads for candidate in candidates] == [4 * torch.get_num_threads(), 2 * torch.get_num_threads()]


def test_autotune_ignores_a_damaged_cache_entry(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    mock_time_ratios(monkeypatch, 0.5, 0.5, 0.9, 0.9)
    autotune(AUTO, NETWORK)
    (path,) = cache.iterdir()
    path.write_text('{"device": "abacus"}')
    assert autotune(AUTO, NETWORK) == BASELINE


def test_autotune_works_if_its_result_cannot_be_cached(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "compute").write_text("a file instead of a folder")
    mock_time_ratios(monkeypatch, 0.5, 0.5)
    assert autotune(AUTO, NETWORK).precision == "bfloat16"
    assert "the next run measures again" in caplog.text


def test_training_plan_keeps_every_field_through_json() -> None:
    fine_tune = FineTuneConfig(learning_rate=2e-4, lora=LoraConfig(rank=2))
    candidates = [HEAD_ONLY, Candidate("gradual", "gradual", fine_tune, (0, 2), stop_after=3)]
    stage = StagePlan("features.0", 100, 0, 0, 0.0, "statistics frozen")
    plan = TrainingPlan(candidates, "requested", 12, None, {"head_only": [stage]}, BASELINE)
    assert TrainingPlan.from_record(json.loads(json.dumps(plan.record()))) == plan
    assert plan.with_compute(TrainLoopConfig(compute=AUTO, batch_size=7)) == TrainLoopConfig(
        compute=BASELINE, batch_size=7
    )


def test_compute_context_sets_threads_and_restores_them() -> None:
    before = torch.get_num_threads()
    with Compute.from_config(BASELINE.model_copy(update={"threads": before + 1})).context():
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
