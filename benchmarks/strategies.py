"""Compares the holdout accuracy of each strategy, and of a plain loop as in tutorials, over several seeds.

    python benchmarks/strategies.py configs/photos.yaml --set data.root=PHOTOS --set model.weights=FILE

All train on the same images with the same augmentation, batch size and number of epochs, and are evaluated on the
same holdout. The plain loop warms up a new head with Adam, then fine-tunes the last two thirds of the backbone at one
learning rate, with batch norms in eval mode, and keeps the epoch that was best on the validation images.
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
from graft.config.parameters import TrainingParameters
from graft.config.training import TrainingConfig
from graft.config.yaml_file import training_parameters
from graft.data.manifest import scan
from graft.data.splits import Split, split_images
from graft.data.validation import validate_images
from graft.evaluation.evaluate import evaluate
from graft.evaluation.metrics import Predictions
from graft.features.loaders import AugmentationSeeds, TrainingBatches
from graft.models.backbones import build_model, preprocessing_for
from graft.models.stages import stage_names, stage_of
from graft.models.weights import fingerprint_model
from graft.seeds import derive_seed
from graft.training.history import EpochMetrics, Phase
from graft.training.plan import make_plan
from graft.training.recipe import evaluate_holdout, fine_tune, training_images, warm_up_head
from saving import save_results

STRATEGIES = ("auto", "head_only", "last_stages", "gradual", "full")


def main() -> None:
    """Train with every strategy and seed, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=["plain loop", *STRATEGIES], metavar="STRATEGY")
    parser.add_argument("--json", type=Path, help="save the results to this file")
    options = parser.parse_args()
    parameters = training_parameters(options.config, options.set)
    data = parameters.data
    manifest = scan(data.root, data.limits, data.follow_links)
    split = split_images(manifest, validate_images(manifest, data.validation).clusters, data.split)
    results: dict[str, list[tuple[float, float, float]]] = {}
    for seed in range(options.seeds):
        for name in options.only:
            start = time.perf_counter()
            if name == "plain loop":
                note, predictions = "", train_plain_loop(parameters, split, seed)
            else:
                note, predictions = train_recipe(parameters, split, name, seed)
            accuracy, macro_f1, seconds = predictions.accuracy, predictions.macro_f1, time.perf_counter() - start
            results.setdefault(name, []).append((accuracy, macro_f1, seconds))
            save_results(results, options.json)
            print(f"seed {seed}  {name:12} {accuracy:.4f}  {macro_f1:.4f}  {seconds:5.0f} s  {note}", flush=True)
    print(f"\n{platform.machine()}, {torch.get_num_threads()} threads; mean ± standard deviation over seeds")
    for name, runs in results.items():
        accuracies, f1s, times = zip(*runs, strict=True)
        print(f"{name:12} accuracy {spread(accuracies)}  macro-F1 {spread(f1s)}  {statistics.mean(times):4.0f} s")


def spread(values: tuple[float, ...]) -> str:
    """Mean and sample standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {deviation:.3f}"


def train_recipe(parameters: TrainingParameters, split: Split, strategy: str, seed: int) -> tuple[str, Predictions]:
    """Train Graft's recipe with a strategy; returns a note on what was trained, and predictions on the holdout."""
    config = parameters.training.fine_tune.model_copy(update={"unfrozen_stages": None, "unfreeze_epochs": None})
    training = TrainingConfig.model_validate({**dict(parameters.training), "strategy": strategy, "fine_tune": config})
    model = fingerprint_model(parameters.model)
    plan = make_plan(split, model, training, seed)
    training = plan.with_compute(training)
    train_config = training.train_config
    warm = warm_up_head(
        split, model, train_config=train_config, warm_up=training.warm_up, seed=seed, on_epoch_end=ignore_epoch
    )
    tuned = fine_tune(
        split, warm, train_config=train_config, config=config, plan=plan, seed=seed, on_epoch_end=ignore_epoch
    )
    note = f"{plan.decision.strategy}, best epoch {tuned.best_epoch} of {tuned.phase}"
    return note, evaluate_holdout(split, tuned, temperature=1.0, compute=training.compute)


def ignore_epoch(phase: Phase, epoch: int, metrics: EpochMetrics) -> None:
    """An ``on_epoch_end`` that logs nothing."""


def train_plain_loop(parameters: TrainingParameters, split: Split, seed: int) -> Predictions:
    """Train the plain loop; returns predictions on the holdout."""
    torch.manual_seed(seed)
    training = parameters.training
    preprocessing = preprocessing_for(parameters.model)
    images = training_images(split, preprocessing)
    dataset, compute = images.dataset, Compute.from_config(training.compute)
    model = compute.model_to_device(build_model(parameters.model, len(split.classes), derive_seed(seed, "plain")))
    batches = TrainingBatches(dataset, images.train, training.train_config, AugmentationSeeds(seed))
    last_stages = {*stage_names(model)[len(stage_names(model)) * 7 // 20 :], "head"}
    best, best_accuracy, epoch = copy.deepcopy(model.state_dict()), 0.0, 0
    phases = (({"head"}, 1e-3, training.warm_up.epochs), (last_stages, 1e-4, training.fine_tune.epochs))
    for trainable, lr, epochs in phases:
        for name, value in model.named_parameters():
            value.requires_grad_(stage_of(name) in trainable)
        optimizer = torch.optim.Adam([value for value in model.parameters() if value.requires_grad], lr=lr)
        for _ in range(epochs):
            model.train()
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
            for pixels, labels, _ in batches.epoch(epoch):
                optimizer.zero_grad()
                logits = model(compute.images_to_device(pixels, preprocessing))
                loss = functional.cross_entropy(logits, labels.to(compute.device))
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            epoch += 1
            accuracy = evaluate(model, dataset, images.validation, compute=training.compute).accuracy
            if accuracy >= best_accuracy:
                best, best_accuracy = copy.deepcopy(model.state_dict()), accuracy
    model.load_state_dict(best)
    return evaluate(model, dataset, split.records("holdout"), compute=training.compute)


if __name__ == "__main__":
    main()
