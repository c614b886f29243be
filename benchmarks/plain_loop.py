"""A training loop as tutorials have it, on torch and torchvision alone: what Graft is measured against.

    python benchmarks/plain_loop.py PHOTOS --weights FILE [--seed 0] [--fold 0]

PHOTOS holds ``train/`` and ``val/`` with a folder for each class. MobileNetV2 with a new head: two epochs of the
head, then eight of everything from ``features.7`` on; the epoch that was best on a fifth of the training images
(``--fold`` says which) is judged on ``val/``. Every image is decoded and augmented in every epoch.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import datasets, models
from torchvision.transforms import v2

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
BATCH, WARM_UP, FINE_TUNE, FIRST_MOVING = 16, 2, 8, 7


def main() -> None:
    """Train, and print accuracy and seconds as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fold", type=int, choices=range(5), default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    start = time.perf_counter()
    normalise = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    augment = v2.Compose([v2.RandomResizedCrop(224, scale=(0.6, 1.0)), v2.RandomHorizontalFlip(), *normalise])
    plain = v2.Compose([v2.Resize(256), v2.CenterCrop(224), *normalise])
    training = datasets.ImageFolder(options.photos / "train", augment)
    validating = datasets.ImageFolder(options.photos / "train", plain)
    order = torch.randperm(len(training)).tolist()
    fifth = len(order) // 5
    order = order[options.fold * fifth :] + order[: options.fold * fifth]
    train = batches(Subset(training, order[fifth:]), shuffle=True)
    validate = batches(Subset(validating, order[:fifth]))
    model = models.mobilenet_v2()
    model.load_state_dict(load_file(options.weights))
    model.classifier[1] = nn.Linear(model.last_channel, len(training.classes))
    best, best_accuracy = copy.deepcopy(model.state_dict()), 0.0
    for phase, epochs, rate in (("warm-up", WARM_UP, 1e-3), ("fine-tuning", FINE_TUNE, 1e-4)):
        for name, value in model.named_parameters():
            stage = int(name.split(".")[1]) if name.startswith("features") else 99
            value.requires_grad_(stage >= (99 if phase == "warm-up" else FIRST_MOVING))
        optimizer = torch.optim.Adam([value for value in model.parameters() if value.requires_grad], rate)
        for _ in range(epochs):
            model.train()
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
            for images, labels in train:
                optimizer.zero_grad()
                functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            accuracy = accuracy_of(model, validate)
            if accuracy >= best_accuracy:
                best, best_accuracy = copy.deepcopy(model.state_dict()), accuracy
    model.load_state_dict(best)
    accuracy = accuracy_of(model, batches(datasets.ImageFolder(options.photos / "val", plain)))
    print(json.dumps({"accuracy": accuracy, "seconds": time.perf_counter() - start}))


def batches(images: Dataset[object], shuffle: bool = False) -> DataLoader[object]:
    """Batches from one worker, as many as there are cores to spare."""
    return DataLoader(images, BATCH, shuffle=shuffle, num_workers=1, persistent_workers=True)


@torch.inference_mode()
def accuracy_of(model: nn.Module, images: DataLoader[object]) -> float:
    """The share of images that are named right."""
    model.eval()
    right = [(model(pixels).argmax(dim=1) == labels).float() for pixels, labels in images]
    return torch.cat(right).mean().item()


if __name__ == "__main__":
    main()
