"""What the training pipeline computes, without ZenML, MLflow or reports; it keeps the cache and the model alone.

    python benchmarks/bare_recipe.py MODEL.onnx CONFIG [--set KEY=VALUE]

Prints the accuracy on the holdout and, by step of the pipeline, the seconds of the same work, as JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from graft.garbage import collect_seldom, end_at_once, importing

codes: list[int] = []
end_at_once(codes)  # as a process of the console command does
collect_seldom()
with importing():
    from graft import recipe
    from graft.config_file import training_parameters
    from graft.cross_validation import summarize, train_and_test
    from graft.data.manifest import scan
    from graft.data.splits import cut_folds, split_images
    from graft.data.validation_report import require_fit
    from graft.learning.history import EpochMetrics, Phase
    from graft.networks.backbones import check
    from graft.networks.weights import pin
    from graft.onnx_model import export
    from graft.onnx_model import validate as validate_onnx
    from graft.plan import make_plan

seconds: dict[str, float] = {}


def main() -> None:
    """Do what ``pipelines/training.py`` does, step by step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    parameters = training_parameters(options.config, options.set)
    data, training, seed = parameters.data, parameters.training, parameters.seed
    count = parameters.cross_validation.folds
    check(parameters.model)
    recipe.check(parameters.model, training)
    model = pin(parameters.model)
    with timed("ingest_images"):
        manifest = scan(data.root, data.limits)
    root = manifest.folder()
    with timed("validate_data"):
        from graft.data.validation import validate

        report = validate(manifest, data.validation, count, data.bad_images)
        require_fit(report)
    with timed("split_data"):
        split = split_images(manifest, report.clusters, data.split)
        folds = cut_folds(split, count, seed)
    with timed("plan_training"):
        plan = make_plan(root, split, model, training, seed)
        recipe.keep_frozen(root, split, model, training, plan)
    loop = plan.settled(training.loop)
    with timed("warm_up_head"):
        warm = recipe.warm_up(root, split, model, (loop, training.warm_up), seed, nobody)
    with timed("fine_tune"):
        tuned = recipe.fine_tune(root, split, warm, (loop, training.fine_tune, plan), seed, nobody)
    results = []
    for fold in range(count):
        with timed(f"fold_{fold}"):
            configs = (model.config, training, plan)
            results.append(train_and_test(folds, fold, root, configs, seed, nobody))
    with timed("summarize_folds"):
        temperature = summarize(results).temperature
    with timed("evaluate_holdout"):
        holdout = recipe.judge_holdout(root, split, tuned, temperature, plan.compute)
    with timed("export_onnx"):
        exported = export(tuned, temperature, parameters.export.opset, {})
        options.model.write_bytes(exported.content)
    with timed("validate_onnx"):
        paths = recipe.parity_images(root, split, parameters.export.parity_images)
        validate_onnx(exported, tuned, temperature, paths, parameters.export)
    print(json.dumps({"accuracy": holdout.accuracy, "steps": seconds}), flush=True)


@contextmanager
def timed(step: str) -> Iterator[None]:
    """Note the seconds of a step."""
    start = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - start


def nobody(phase: Phase, epoch: int, metrics: EpochMetrics) -> None:
    """Hears of an epoch."""


if __name__ == "__main__":
    main()
    codes.append(0)
