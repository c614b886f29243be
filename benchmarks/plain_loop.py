"""The plain transfer-learning loop that Graft is compared with: what one would write with torch and torchvision.

    python benchmarks/plain_loop.py DATA --weights FILE [--seed 0] [--folds 5]

DATA contains ``train/`` and ``val/`` with one folder per class. MobileNetV2 at 224 px, in batches of 32: two epochs of
a new head, then ten of all blocks from ``features[7]`` on, with lower learning rates for earlier blocks. Every image is
decoded and augmented in every epoch. The model of the last epoch counts. With ``--folds``, it first cross-validates in
so many folds, as Graft does.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from baselines.task import IMAGENET_MEAN, IMAGENET_STD, WORKERS, Outcome, Task, load_mobilenet_v2, score

LR_FACTORS = (0.3, 1.0, 3.0)
BATCH_SIZE = 32
NORMALIZE = (transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD))
AUGMENT = transforms.Compose([
    transforms.RandomResizedCrop(224, scale=(0.7, 1.0)), transforms.RandomHorizontalFlip(),
    transforms.ColorJitter(0.3, 0.3, 0.2), *NORMALIZE,
])  # fmt: skip
CENTER_CROP = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), *NORMALIZE])


@dataclass(frozen=True)
class Phase:
    """Some epochs of training, with the learning rate of each trained part of the network."""

    epochs: int
    learning_rates: dict[str, float]


def phases(epochs: int, lr_factor: float) -> list[Phase]:
    """A sixth of the epochs for the head alone, the others for the later blocks as well."""
    head = {"head": 1e-3 * lr_factor}
    blocks = {"features[7:14]": 1e-4 * lr_factor, "features[14:]": 3e-4 * lr_factor}
    warm_up = max(1, epochs // 6)
    return [Phase(warm_up, head), Phase(epochs - warm_up, head | blocks)]


def train_and_predict(task: Task) -> Outcome:
    """Cross-validate if asked to, then train on all images; time includes the evaluation after each epoch."""
    start = time.perf_counter()
    augmented, plain = ImageFolder(task.data / "train", AUGMENT), ImageFolder(task.data / "train", CENTER_CROP)
    holdout = ImageFolder(task.data / "val", CENTER_CROP)
    fold_accuracies = []
    if task.folds:
        splits = StratifiedKFold(task.folds, shuffle=True, random_state=task.seed)
        for train_indices, test_indices in splits.split(plain.targets, plain.targets):
            logits = train(task, Subset(augmented, train_indices), Subset(plain, test_indices))
            labels = torch.tensor(plain.targets)[test_indices]
            fold_accuracies.append((logits.argmax(dim=1) == labels).float().mean().item())
    logits = train(task, augmented, holdout)
    seconds = time.perf_counter() - start
    paths = [str(Path(path).relative_to(task.data)) for path, _ in holdout.samples]
    return Outcome(paths, logits.softmax(dim=1).numpy(), seconds, {"fold_accuracies": fold_accuracies})


def train(task: Task, train_images: Dataset[Any], test_images: Dataset[Any]) -> Tensor:
    """Train a new model; returns its logits ``[images, classes]`` for the test images after the last epoch."""
    torch.manual_seed(task.seed)
    model = load_mobilenet_v2(task.weights)
    model.classifier = nn.Sequential(nn.Dropout(0.4), nn.Linear(1280, len(task.classes)))
    parts = {"head": model.classifier, "features[7:14]": model.features[7:14], "features[14:]": model.features[14:]}
    train_batches = DataLoader(train_images, BATCH_SIZE, shuffle=True, num_workers=WORKERS, drop_last=True)
    test_batches = DataLoader(test_images, BATCH_SIZE, num_workers=WORKERS)
    for phase in phases(task.epochs, task.lr_factor):
        model.features.requires_grad_(False)
        for name in phase.learning_rates:
            parts[name].requires_grad_(True)
        groups = [{"params": parts[name].parameters(), "lr": lr} for name, lr in phase.learning_rates.items()]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=phase.epochs)
        for _ in range(phase.epochs):
            train_one_epoch(model, train_batches, optimizer)
            schedule.step()
            logits = predict(model, test_batches)
    return logits


def train_one_epoch(model: nn.Module, batches: DataLoader[Any], optimizer: torch.optim.Optimizer) -> None:
    """One pass over the batches, with batch norms in eval mode."""
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    for images, labels in batches:
        optimizer.zero_grad()
        criterion(model(images), labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


@torch.no_grad()
def predict(model: nn.Module, batches: DataLoader[Any]) -> Tensor:
    """Logits ``[images, classes]``, in the order of the batches."""
    model.eval()
    return torch.cat([model(images) for images, _ in batches])


def main() -> None:
    """Train, and print accuracy and seconds as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--folds", type=int, default=0)
    task = Task(**vars(parser.parse_args()))
    outcome = train_and_predict(task)
    print(json.dumps({"accuracy": score(task, outcome)["accuracy"], "seconds": outcome.seconds, **outcome.details}))


if __name__ == "__main__":
    main()
