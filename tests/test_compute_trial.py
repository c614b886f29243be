"""How to compute is tried once, taken where it is clearly faster, and remembered."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from graft.compute.devices import Compute
from graft.compute.trial import fastest
from graft.config import ModelConfig
from graft.learning.strategy import Decision
from graft.networks.backbones import build
from graft.plan import TrainingPlan
from graft.training_config import ComputeConfig, LoopConfig

NETWORK = build(ModelConfig(architecture="mobilenet_v3_small", weights="letters"), 10, seed=0)
OPEN = ComputeConfig(device="cpu")
USUAL = ComputeConfig(device="cpu", precision="float32", channels_last=True, threads=torch.get_num_threads())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    return tmp_path / "compute"


def ratios(monkeypatch: pytest.MonkeyPatch, *given: float) -> list[ComputeConfig]:
    """Let each trial find one of these ratios; returns what was tried."""
    tried, left = list[ComputeConfig](), iter(given)

    def ratio(challenger: ComputeConfig, *_: object) -> float:
        tried.append(challenger)
        return next(left)

    monkeypatch.setattr("graft.compute.trial._ratio", ratio)
    return tried


def test_a_real_trial_leaves_nothing_open(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="graft.compute.trial")
    found = fastest(OPEN, NETWORK)
    assert "auto" not in found.model_dump().values()
    assert f"Computes in {found.precision} on cpu" in caplog.text
    assert fastest(OPEN, NETWORK) == found
    assert len(caplog.messages) == 1
    assert len(list(cache.iterdir())) == 1


def test_what_is_clearly_faster_is_taken_and_the_next_is_measured_against_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = ratios(monkeypatch, 0.5, 0.6)
    found = fastest(OPEN, NETWORK)
    assert found == USUAL.model_copy(update={"channels_last": False, "precision": "bfloat16"})
    assert [each.precision for each in tried] == ["float32", "bfloat16"]
    assert not any(each.channels_last for each in tried)


def test_what_is_hardly_faster_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    ratios(monkeypatch, 0.9, 1.2)
    assert fastest(OPEN, NETWORK) == USUAL


def test_what_the_config_says_is_not_tried(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    assert not ratios(monkeypatch)
    assert fastest(USUAL, NETWORK) == USUAL
    ratios(monkeypatch, 0.1)
    given = ComputeConfig(device="cpu", channels_last=False)
    assert fastest(given, NETWORK).precision == "bfloat16"
    assert fastest(given, NETWORK).channels_last is False
    assert len(list(cache.iterdir())) == 1


def test_numbers_of_threads_are_tried_unless_the_environment_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4 * torch.get_num_threads())
    settled = USUAL.model_copy(update={"threads": "auto"})
    assert fastest(settled, NETWORK) == USUAL
    monkeypatch.delenv("OMP_NUM_THREADS")
    tried = ratios(monkeypatch, 0.9, 0.5)
    assert fastest(settled, NETWORK).threads == 2 * torch.get_num_threads()
    assert [each.threads for each in tried] == [4 * torch.get_num_threads(), 2 * torch.get_num_threads()]


def test_a_damaged_memory_is_no_memory(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    ratios(monkeypatch, 0.5, 0.5, 0.9, 0.9)
    fastest(OPEN, NETWORK)
    (place,) = cache.iterdir()
    place.write_text('{"device": "abacus"}')
    assert fastest(OPEN, NETWORK) == USUAL


def test_where_nothing_can_be_kept_the_choice_holds_for_this_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "compute").write_text("in the way")
    ratios(monkeypatch, 0.5, 0.5)
    assert fastest(OPEN, NETWORK).precision == "bfloat16"
    assert "the next run tries again" in caplog.text


def test_a_plan_holds_how_to_compute_through_json() -> None:
    plan = TrainingPlan(Decision("head_only", (), "it is asked for"), 12, None, [], USUAL)
    assert TrainingPlan.from_record(json.loads(json.dumps(plan.record()))) == plan
    assert plan.settled(LoopConfig(compute=OPEN, batch_size=7)) == LoopConfig(compute=USUAL, batch_size=7)


def test_threads_are_set_while_computing_and_put_back() -> None:
    before = torch.get_num_threads()
    with Compute.of(USUAL.model_copy(update={"threads": before + 1})).running():
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
