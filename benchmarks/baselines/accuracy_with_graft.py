"""Graft's default, ``configs/photos.yaml``, without ZenML and MLflow: folds, choice, final model, holdout."""

from __future__ import annotations

import time
from pathlib import Path

import graft.integrations.logging_setup  # noqa: F401
from baselines.task import Outcome, Task
from graft.config.yaml_file import training_parameters
from graft.data.splits import make_folds
from graft.training import recipe
from graft.training.cross_validation import choose_recipe, drop_candidates
from graft.training.folds import FoldResult, cross_validate_fold
from graft.training.history import EpochMetrics, Phase
from graft.training.plan import make_plan
from graft.training.standalone import prepare_standalone

LR_FACTORS = (1.0,)  # its default is what is compared
CONFIG = Path(__file__).parents[2] / "configs" / "photos.yaml"


def train_and_predict(task: Task) -> Outcome:
    """Train as ``graft run`` does, and predict with the model that it would export.

    The details are the recipe, the log losses of the candidates, and the metrics of the cross-validation.
    """
    start = time.perf_counter()
    overrides = [f"data.root={task.data}", f"model.weights={task.weights}", f"seed={task.seed}", *task.overrides]
    parameters = training_parameters(CONFIG, overrides)
    training, seed = parameters.training, parameters.seed
    split, model = prepare_standalone(parameters)
    plan = make_plan(split, model, training, seed)
    recipe.precompute_features(split, model, training, plan)
    folds = make_folds(split, parameters.cross_validation.folds, seed)
    results: list[FoldResult] = []
    for fold in range(parameters.cross_validation.folds):
        competing = drop_candidates(plan, results[0]) if results else plan
        results.append(
            cross_validate_fold(folds, fold, model.config, training, competing, seed=seed, on_epoch_end=ignore_epoch)
        )
    chosen, summary = choose_recipe(results, plan)
    config = chosen.with_compute(training.train_config)
    warm = recipe.warm_up_head(
        split, model, train_config=config, warm_up=training.warm_up, seed=seed, on_epoch_end=ignore_epoch
    )
    tuned = recipe.fine_tune(split, warm, train_config=config, plan=chosen, seed=seed, on_epoch_end=ignore_epoch)
    seconds = time.perf_counter() - start
    holdout = recipe.evaluate_holdout(split, tuned, temperature=summary.temperature, compute=chosen.compute)
    details = {
        "recipe": chosen.recipe.name,
        "epochs": chosen.recipe.phase.last_epoch,
        "candidates": {score.name: [score.log_loss, score.outcome] for score in summary.candidates},
        **summary.to_metrics(),
    }
    return Outcome(holdout.paths, holdout.probabilities, seconds, details)


def ignore_epoch(phase: Phase, epoch: int, metrics: EpochMetrics) -> None:
    """An ``on_epoch_end`` that logs nothing."""
