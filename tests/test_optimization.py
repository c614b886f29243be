"""Learning-rate schedules, parameter groups, and optimizers that keep their state when stages are unfrozen."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from graft.config.parameters import ModelConfig
from graft.config.training import OptimizerConfig
from graft.models.backbones import build_model
from graft.models.freezing import freeze_all_but
from graft.training.optimization import (
    SCHEDULES,
    LRSchedule,
    UnfrozenStage,
    layer_lrs,
    make_optimizer,
    make_scheduler,
    schedule_factor,
)


@pytest.fixture
def model() -> nn.Module:
    return build_model(ModelConfig(architecture="mobilenet_v3_small", weights="letters"), 10, seed=0)


def test_schedules_are_those_of_the_config_and_an_unknown_one_is_an_error() -> None:
    assert set(SCHEDULES) == set(get_args(OptimizerConfig.model_fields["schedule"].annotation))
    with pytest.raises(KeyError, match="no such schedule"):
        schedule_factor("no such schedule", 0, 10)


@given(st.sampled_from(sorted(SCHEDULES)), st.integers(1, 500))
def test_schedule_rises_to_its_peak_and_never_rises_again(schedule: str, steps: int) -> None:
    factors = [schedule_factor(schedule, step, steps) for step in range(steps)]
    peak = factors.index(max(factors))
    assert max(factors) == pytest.approx(1.0)
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert (factors[-1] == 1.0) == (schedule == "constant" or steps <= 2) or steps < 10


@given(st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=30, unique=True), st.floats(0.01, 1))
def test_layer_lrs_decrease_toward_the_input_to_a_hundredth_of_the_heads_at_least(
    stages: list[str], decay: float
) -> None:
    lrs = layer_lrs(stages, 0.1, decay)
    assert list(lrs) == stages[::-1]
    values = list(lrs.values())
    assert values == sorted(values, reverse=True)
    assert values[0] == 0.1
    assert values[-1] >= 0.001 * (1 - 1e-9)


def test_schedule_of_a_stage_unfrozen_late_ramps_up() -> None:
    schedule = LRSchedule(OptimizerConfig(schedule="constant"), steps=100, ramp=4)
    late, head = schedule.factor(UnfrozenStage("features.3", 50)), schedule.factor(UnfrozenStage("head"))
    assert [late(step) for step in range(50, 56)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert head(50) == 1.0


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_optimizer_keeps_the_state_of_parameters_that_stay_trainable(model: nn.Module, name: Any) -> None:  # noqa: ANN401
    config = OptimizerConfig(name=name)

    def step(optimizer: torch.optim.Optimizer) -> None:
        model(torch.rand(2, 3, 48, 48)).sum().backward()
        optimizer.step()

    before = make_optimizer(model, layer_lrs(freeze_all_but(model, 1), 0.01, 0.5), config)
    step(before)
    states = {id(parameter): state for parameter, state in before.state.items()}
    after = make_optimizer(model, layer_lrs(freeze_all_but(model, 2), 0.01, 0.5), config, before)
    parameters = [parameter for group in after.param_groups for parameter in group["params"]]
    still_trainable = [parameter for parameter in parameters if id(parameter) in states]
    assert len(still_trainable) == len(states)
    assert all(after.state[parameter] is states[id(parameter)] for parameter in still_trainable)
    assert {group["name"] for group in after.param_groups} == {"head", "features.12", "features.11"}
    step(after)
    assert len(after.state) > len(states)


def test_optimizer_decays_matrices_and_filters_only(model: nn.Module) -> None:
    optimizer = make_optimizer(model, layer_lrs(freeze_all_but(model, 3), 0.01, 0.5), OptimizerConfig())
    for group in optimizer.param_groups:
        assert {parameter.ndim > 1 for parameter in group["params"]} == {group["weight_decay"] > 0}


def test_scheduler_made_at_a_step_has_the_learning_rates_of_one_that_ran_there(model: nn.Module) -> None:
    lrs = layer_lrs(freeze_all_but(model, 1), 0.01, 0.5)
    schedule = LRSchedule(OptimizerConfig(), steps=20)
    unfrozen = [UnfrozenStage(stage) for stage in lrs]
    stepped, resumed = (make_optimizer(model, lrs, OptimizerConfig()) for _ in range(2))
    scheduler = make_scheduler(stepped, schedule, unfrozen, 0)
    for _ in range(7):
        stepped.step()
        scheduler.step()
    make_scheduler(resumed, schedule, unfrozen, 7)
    assert [group["lr"] for group in resumed.param_groups] == [group["lr"] for group in stepped.param_groups]
