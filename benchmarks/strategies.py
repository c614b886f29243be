"""Holdout accuracy of each strategy, beside a plain loop as tutorials have it, over several seeds.

    python benchmarks/strategies.py configs/photos.yaml --set data.root=PHOTOS --set model.weights=FILE

All train on the same images with the same augmentation, batch size and number of epochs, and are judged on the
same holdout. The plain loop warms a new head up with Adam, then fine-tunes the later two thirds of the backbone at
one rate, batch norms in eval mode, and keeps the epoch that was best on the validation images.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from graft.compute.devices import Compute
from graft.config import TrainingParameters
from graft.config_file import training_parameters
from graft.data.manifest import scan
from graft.data.splits import Split, split_images
from graft.data.validation import validate
from graft.inputs.datasets import TrainingBatches, Variety
from graft.learning.evaluation import evaluate
from graft.learning.metrics import Predictions
from graft.networks.backbones import build, preprocessing, stage_of, stages
from graft.networks.weights import pin
from graft.plan import make_plan
from graft.recipe import fine_tune, images_of, judge_holdout, warm_up
from graft.seeds import derive_seed
from graft.training_config import TrainingConfig
from keeping import keep

STRATEGIES = ("auto", "head_only", "last_stages", "gradual", "full")


def main() -> None:
    """Run everything, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=["plain loop", *STRATEGIES], metavar="STRATEGY")
    parser.add_argument("--json", type=Path, help="keep the figures here")
    options = parser.parse_args()
    parameters = training_parameters(options.config, options.set)
    manifest = scan(parameters.data.root, parameters.data.limits)
    split = split_images(manifest, validate(manifest, parameters.data.validation).clusters, parameters.data.split)
    found: dict[str, list[tuple[float, float, float]]] = {}
    for seed in range(options.seeds):
        for name in options.only:
            start = time.perf_counter()
            if name == "plain loop":
                note, said = "", by_plain_loop(parameters, split, seed)
            else:
                note, said = by_graft(parameters, split, name, seed)
            seconds = time.perf_counter() - start
            found.setdefault(name, []).append((said.accuracy, said.macro_f1, seconds))
            keep(found, options.json)
            line = f"seed {seed}  {name:12} {said.accuracy:.4f}  {said.macro_f1:.4f}  {seconds:5.0f} s  {note}"
            print(line, flush=True)
    print(f"\n{platform.machine()}, {torch.get_num_threads()} threads; mean ± standard deviation of the seeds")
    for name, results in found.items():
        accuracies, f1s, times = zip(*results, strict=True)
        print(f"{name:12} accuracy {spread(accuracies)}  macro-F1 {spread(f1s)}  {statistics.mean(times):4.0f} s")


def spread(values: tuple[float, ...]) -> str:
    """Mean and sample standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {deviation:.3f}"


def by_graft(parameters: TrainingParameters, split: Split, strategy: str, seed: int) -> tuple[str, Predictions]:
    """What Graft's recipe says of the holdout under a strategy, and what it chose."""
    tune = parameters.training.fine_tune.model_copy(update={"unfrozen_stages": None, "thaw_epochs": None})
    training = TrainingConfig.model_validate(
        {**dict(parameters.training), "strategy": strategy, "fine_tune": tune}
    )
    folder, model = split.folder(), pin(parameters.model)
    plan = make_plan(folder, split, model, training, seed)
    training = plan.settled(training)
    warm = warm_up(folder, split, model, (training.loop, training.warm_up), seed, lambda *_: None)
    tuned = fine_tune(folder, split, warm, (training.loop, training.fine_tune, plan), seed, lambda *_: None)
    note = f"{plan.decision.strategy}, best epoch {tuned.best_epoch} of {tuned.stage}"
    return note, judge_holdout(folder, split, tuned, 1.0, training.compute)


def by_plain_loop(parameters: TrainingParameters, split: Split, seed: int) -> Predictions:
    """What a model of the plain loop says of the holdout."""
    torch.manual_seed(seed)
    training = parameters.training
    shape = preprocessing(parameters.model)
    images = images_of(split.folder(), split, shape)
    compute = Compute.of(training.compute)
    model = compute.place_model(build(parameters.model, len(split.classes), derive_seed(seed, "plain")))
    batches = TrainingBatches(images.source, images.train, training.loop, Variety(seed))
    later = {*stages(model)[len(stages(model)) * 7 // 20 :], "head"}
    best, best_accuracy, epoch = copy.deepcopy(model.state_dict()), 0.0, 0
    phases = (({"head"}, 1e-3, training.warm_up.epochs), (later, 1e-4, training.fine_tune.epochs))
    for moving, rate, epochs in phases:
        for name, value in model.named_parameters():
            value.requires_grad_(stage_of(name) in moving)
        optimizer = torch.optim.Adam([value for value in model.parameters() if value.requires_grad], lr=rate)
        for _ in range(epochs):
            model.train()
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
            for pixels, labels, _ in batches.epoch(epoch):
                optimizer.zero_grad()
                loss = functional.cross_entropy(
                    model(compute.place_images(pixels, shape)), labels.to(compute.device)
                )
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            epoch += 1
            accuracy = evaluate(model, images.source, images.validation, training.compute).accuracy
            if accuracy >= best_accuracy:
                best, best_accuracy = copy.deepcopy(model.state_dict()), accuracy
    model.load_state_dict(best)
    return evaluate(model, images.source, split.rows("holdout"), training.compute)


if __name__ == "__main__":
    main()
