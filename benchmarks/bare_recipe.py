"""The computations of the training pipeline without ZenML, MLflow and reports; only cache and model are written.

    python benchmarks/bare_recipe.py MODEL.onnx CONFIG [--set KEY=VALUE]

Prints, as JSON, the accuracy on the holdout and the seconds of the work of each pipeline step.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from graft.gc_tuning import exit_without_teardown, gc_paused, reduce_gc_frequency

codes: list[int] = []
exit_without_teardown(codes)  # as the console command does, so that both exit equally fast
reduce_gc_frequency()
with gc_paused():
    from graft.config.yaml_file import training_parameters
    from graft.data.manifest import scan
    from graft.data.splits import make_folds, split_images
    from graft.data.validation_report import check_blocking_errors
    from graft.export.onnx_model import export
    from graft.export.parity import compare_with_torch
    from graft.models.model_checks import check_model_config
    from graft.models.weights import fingerprint_model
    from graft.training import recipe
    from graft.training.config_checks import check_training_config
    from graft.training.cross_validation import choose_recipe, drop_candidates
    from graft.training.folds import FoldResult, cross_validate_fold
    from graft.training.history import EpochMetrics, Phase
    from graft.training.plan import make_plan

seconds: dict[str, float] = {}


def main() -> None:
    """Run the steps of ``pipelines/training.py`` as function calls."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    parameters = training_parameters(options.config, options.set)
    data, training, seed = parameters.data, parameters.training, parameters.seed
    fold_count = parameters.cross_validation.folds
    check_model_config(parameters.model)
    check_training_config(parameters.model, training)
    model = fingerprint_model(parameters.model)
    with timed("ingest_images"):
        manifest = scan(data.root, data.limits, data.follow_links)
    with timed("validate_data"):
        from graft.data.validation import validate_images

        report = validate_images(manifest, data.validation, fold_count, data.bad_images)
        check_blocking_errors(report)
    with timed("split_data"):
        split = split_images(manifest, report.clusters, data.split)
        folds = make_folds(split, fold_count, seed)
    with timed("plan_training"):
        plan = make_plan(split, model, training, seed)
        recipe.precompute_features(split, model, training, plan)
    fold_results: list[FoldResult] = []
    for fold in range(fold_count):
        with timed(f"fold_{fold}"):
            competing = drop_candidates(plan, fold_results[0]) if fold_results else plan
            result = cross_validate_fold(
                folds, fold, model.config, training, competing, seed=seed, on_epoch_end=ignore_epoch
            )
            fold_results.append(result)
    with timed("choose_recipe"):
        plan, summary = choose_recipe(fold_results, plan)
        temperature = summary.temperature
    config = plan.with_compute(training.train_config)
    with timed("warm_up_head"):
        warm = recipe.warm_up_head(
            split, model, train_config=config, warm_up=training.warm_up, seed=seed, on_epoch_end=ignore_epoch
        )
    with timed("fine_tune"):
        tuned = recipe.fine_tune(split, warm, train_config=config, plan=plan, seed=seed, on_epoch_end=ignore_epoch)
    with timed("evaluate_holdout"):
        holdout = recipe.evaluate_holdout(split, tuned, temperature=temperature, compute=plan.compute)
    with timed("export_onnx"):
        exported = export(tuned, temperature, parameters.export.opset, {})
        options.model.write_bytes(exported.content)
    with timed("validate_onnx"):
        paths = recipe.parity_images(split, parameters.export.parity_images)
        compare_with_torch(exported, tuned, temperature, paths, parameters.export)
    print(json.dumps({"accuracy": holdout.accuracy, "steps": seconds}), flush=True)


@contextmanager
def timed(step: str) -> Iterator[None]:
    """Record the seconds of a step."""
    start = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - start


def ignore_epoch(phase: Phase, epoch: int, metrics: EpochMetrics) -> None:
    """An ``on_epoch_end`` that logs nothing."""


if __name__ == "__main__":
    main()
    codes.append(0)
