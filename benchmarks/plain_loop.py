"""A training loop as in tutorials, with torch and torchvision only: the baseline that Graft is compared with.

    python benchmarks/plain_loop.py PHOTOS --weights FILE [--seed 0] [--fold 0]

PHOTOS contains ``train/`` and ``val/`` with one folder per class. Trains MobileNetV2 with a new head: two epochs of the
head alone, then eight epochs of all layers from ``features.7`` on. The best epoch on a fifth of the training images
(chosen by ``--fold``) is evaluated on ``val/``. Every image is decoded and augmented in every epoch.
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
BATCH, WARM_UP, FINE_TUNE, FIRST_TRAINABLE = 16, 2, 8, 7


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
    train_images = datasets.ImageFolder(options.photos / "train", augment)
    validation_images = datasets.ImageFolder(options.photos / "train", plain)
    order = torch.randperm(len(train_images)).tolist()
    fifth = len(order) // 5
    order = order[options.fold * fifth :] + order[: options.fold * fifth]
    train = batches(Subset(train_images, order[fifth:]), shuffle=True)
    validate = batches(Subset(validation_images, order[:fifth]))
    model = models.mobilenet_v2()
    model.load_state_dict(load_file(options.weights))
    model.classifier[1] = nn.Linear(model.last_channel, len(train_images.classes))
    best, best_accuracy = copy.deepcopy(model.state_dict()), 0.0
    for phase, epochs, lr in (("warm-up", WARM_UP, 1e-3), ("fine-tuning", FINE_TUNE, 1e-4)):
        for name, value in model.named_parameters():
            stage = int(name.split(".")[1]) if name.startswith("features") else 99
            value.requires_grad_(stage >= (99 if phase == "warm-up" else FIRST_TRAINABLE))
        optimizer = torch.optim.Adam([value for value in model.parameters() if value.requires_grad], lr)
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
    """Batches from one worker process, which leaves the second core to training."""
    return DataLoader(images, BATCH, shuffle=shuffle, num_workers=1, persistent_workers=True)


@torch.inference_mode()
def accuracy_of(model: nn.Module, images: DataLoader[object]) -> float:
    """The fraction of images that are classified correctly."""
    model.eval()
    correct = [(model(pixels).argmax(dim=1) == labels).float() for pixels, labels in images]
    return torch.cat(correct).mean().item()


if __name__ == "__main__":
    main()
