"""Accuracy of Graft's default on several sets of photographs: what the folds chose, and the head alone.

python benchmarks/accuracy.py DATA/* --weights FILE --seeds 1

Each DATA folder has ``train/`` and ``val/``; ``val/`` is the holdout. Runs ``configs/photos.yaml`` without ZenML and
MLflow: folds, choice, final model, holdout.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import graft.integrations.logging_setup  # noqa: F401
from graft.config.yaml_file import training_parameters
from graft.data.splits import make_folds
from graft.training import recipe
from graft.training.cross_validation import choose_recipe, drop_candidates
from graft.training.folds import FoldResult, cross_validate_fold
from graft.training.history import EpochMetrics, Phase
from graft.training.plan import make_plan
from graft.training.standalone import prepare_standalone
from saving import save_results

CONFIG = Path(__file__).parents[1] / "configs" / "photos.yaml"


def main() -> None:
    """Print one line for each folder and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, …")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, help="save the results to this file")
    options = parser.parse_args()
    results = []
    for folder in options.data:
        for seed in range(options.seeds):
            overrides = [f"data.root={folder}", f"model.weights={options.weights}", f"seed={seed}", *options.set]
            results.append({"data": folder.name, "seed": seed} | evaluate_default(overrides))
            save_results(results, options.json)
            print(results[-1], flush=True)


def evaluate_default(overrides: list[str]) -> dict[str, Any]:
    """The chosen strategy, out-of-fold and holdout accuracy of it and of the head alone, and seconds."""
    start = time.perf_counter()
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
    holdout = {
        name: recipe.evaluate_holdout(
            split, checkpoint, temperature=summary.temperature, compute=chosen.compute
        ).accuracy
        for name, checkpoint in (("holdout", tuned), ("holdout_head_only", warm))
    }
    return {
        "recipe": chosen.recipe.name,
        "epochs": chosen.recipe.phase.last_epoch,
        "candidates": {score.name: (score.log_loss, score.outcome) for score in summary.candidates},
        **summary.to_metrics(),
        **holdout,
        "seconds": seconds,
    }


def ignore_epoch(phase: Phase, epoch: int, metrics: EpochMetrics) -> None:
    """An ``on_epoch_end`` that logs nothing."""


if __name__ == "__main__":
    main()
