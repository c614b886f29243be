"""Rates that climb and fall, groups that decay or don't, moments that outlive a thaw."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from graft.config import ModelConfig
from graft.learning.optimization import Pace, Thawed, make_optimizer, make_scheduler, schedule_factor, stage_rates
from graft.networks.backbones import build
from graft.networks.freezing import freeze_all_but
from graft.training_config import OptimizerConfig

SCHEDULES = ["cosine", "one_cycle", "constant"]


@pytest.fixture
def model() -> nn.Module:
    return build(ModelConfig(architecture="mobilenet_v3_small", weights="letters"), 10, seed=0)


@given(st.sampled_from(SCHEDULES), st.integers(1, 500))
def test_a_schedule_climbs_to_its_peak_and_never_rises_again(schedule: str, steps: int) -> None:
    factors = [schedule_factor(schedule, step, steps) for step in range(steps)]
    peak = factors.index(max(factors))
    assert max(factors) == pytest.approx(1.0)
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert (factors[-1] == 1.0) == (schedule == "constant" or steps <= 2) or steps < 10


@given(st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=30, unique=True), st.floats(0.01, 1))
def test_no_stage_learns_faster_than_the_next_nor_a_hundred_times_slower_than_the_head(
    stages: list[str], decay: float
) -> None:
    rates = list(stage_rates(stages, 0.1, decay).values())
    assert list(stage_rates(stages, 0.1, decay)) == stages[::-1]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 0.1
    assert rates[-1] >= 0.001 * (1 - 1e-9)


def test_a_stage_that_thaws_late_climbs_from_nothing() -> None:
    pace = Pace(OptimizerConfig(schedule="constant"), steps=100, ramp=4)
    late, early = pace.factor(Thawed("features.3", 50)), pace.factor(Thawed("head"))
    assert [late(step) for step in range(50, 56)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert early(50) == 1.0


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_what_stays_trainable_keeps_its_moments_when_the_optimizer_is_rebuilt(model: nn.Module, name: Any) -> None:  # noqa: ANN401
    config = OptimizerConfig(name=name)

    def step(optimizer: torch.optim.Optimizer) -> None:
        model(torch.rand(2, 3, 48, 48)).sum().backward()
        optimizer.step()

    before = make_optimizer(model, stage_rates(freeze_all_but(model, 1), 0.01, 0.5), config)
    step(before)
    known = {id(one): state for one, state in before.state.items()}
    after = make_optimizer(model, stage_rates(freeze_all_but(model, 2), 0.01, 0.5), config, before)
    kept = [one for group in after.param_groups for one in group["params"] if id(one) in known]
    assert len(kept) == len(known)
    assert all(after.state[one] is known[id(one)] for one in kept)
    assert {group["name"] for group in after.param_groups} == {"head", "features.12", "features.11"}
    step(after)
    assert len(after.state) > len(known)


def test_only_weights_of_matrices_and_filters_decay(model: nn.Module) -> None:
    optimizer = make_optimizer(model, stage_rates(freeze_all_but(model, 3), 0.01, 0.5), OptimizerConfig())
    for group in optimizer.param_groups:
        assert {parameter.ndim > 1 for parameter in group["params"]} == {group["weight_decay"] > 0}


def test_a_scheduler_made_at_a_step_stands_where_one_would_that_had_walked_there(model: nn.Module) -> None:
    rates = stage_rates(freeze_all_but(model, 1), 0.01, 0.5)
    pace = Pace(OptimizerConfig(), steps=20)
    thawed = [Thawed(stage) for stage in rates]
    walked, placed = (make_optimizer(model, rates, OptimizerConfig()) for _ in range(2))
    scheduler = make_scheduler(walked, pace, thawed, 0)
    for _ in range(7):
        walked.step()
        scheduler.step()
    make_scheduler(placed, pace, thawed, 7)
    assert [group["lr"] for group in placed.param_groups] == [group["lr"] for group in walked.param_groups]
