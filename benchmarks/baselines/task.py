"""What ``benchmarks/accuracy.py`` gives to each trainer, and what it expects back.

Each trainer is a module with a function ``train_and_predict(task) -> Outcome`` and ``LR_FACTORS``, the multiples of its
default learning rates that ``--grid`` tries; ``(1.0,)`` if there is nothing to try.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, f1_score, log_loss
from sklearn.model_selection import StratifiedKFold
from torchvision.datasets import ImageFolder
from torchvision.models import MobileNetV2, mobilenet_v2

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WORKERS = 2  # processes that decode, for each trainer that has them


@dataclass(frozen=True)
class Task:
    """Train on ``data/train``, predict ``data/val``; both have one folder per class.

    ``epochs`` is the number of passes over the training images. With ``folds``, the plain loop also cross-validates, as
    Graft always does. ``lr_factor`` multiplies the trainer's default learning rates. ``overrides`` (``KEY=VALUE``) are
    for Graft's config, which also says its number of epochs and folds.
    """

    data: Path
    weights: Path
    seed: int
    epochs: int = 12
    folds: int = 0
    lr_factor: float = 1.0
    overrides: tuple[str, ...] = ()

    @property
    def classes(self) -> list[str]:
        """The names of the classes, sorted: the order of all probabilities."""
        return sorted(folder.name for folder in (self.data / "train").iterdir() if folder.is_dir())

    @property
    def holdout(self) -> list[str]:
        """The images in ``data/val``, as paths below ``data``, sorted."""
        return sorted(str(Path(path).relative_to(self.data)) for path, _ in ImageFolder(self.data / "val").samples)


@dataclass(frozen=True)
class Outcome:
    """The predictions of a trained model, and how long it took.

    ``probabilities`` is ``[images, classes]``, one row for each of ``paths`` (below ``data``) and one column for each
    class in the order of ``Task.classes``. ``seconds`` are from the first decoded image to the end of the last epoch.
    ``details`` are saved with the measurement.
    """

    paths: list[str]
    probabilities: np.ndarray
    seconds: float
    details: dict[str, Any] = field(default_factory=dict)


def score(task: Task, outcome: Outcome) -> dict[str, Any]:
    """Accuracy, macro-F1 and log loss in nats on the holdout, and ``correct``: ``1`` or ``0`` for each image of it.

    An image without a prediction (Graft may have quarantined it, a network may have diverged) counts as wrong, at equal
    probabilities.
    """
    classes, paths = task.classes, task.holdout
    by_path = dict(zip(outcome.paths, np.asarray(outcome.probabilities, dtype=np.float64), strict=True))
    missing = np.full(len(classes), np.nan)
    probabilities = np.stack([by_path.get(path, missing) for path in paths])
    predicted = np.where(np.isfinite(probabilities).all(axis=1), probabilities.argmax(axis=1), -1)
    probabilities[predicted < 0] = 1
    probabilities /= probabilities.sum(axis=1, keepdims=True)  # float32 sums to 1 only to 1e-7
    labels = np.array([classes.index(Path(path).parts[1]) for path in paths])
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "macro_f1": float(f1_score(labels, predicted, labels=range(len(classes)), average="macro", zero_division=0.0)),
        "log_loss": float(log_loss(labels, probabilities, labels=range(len(classes)))),
        "without_prediction": int((predicted < 0).sum()),
        "correct": "".join(map(str, (labels == predicted).astype(int))),
    }


def load_mobilenet_v2(weights: Path) -> MobileNetV2:
    """torchvision's MobileNetV2 with the weights of a ``.safetensors`` file, and its head for ImageNet's classes."""
    network = mobilenet_v2()
    network.load_state_dict(load_file(weights))
    return network


@contextmanager
def fold_folders(data: Path, folds: int) -> Iterator[list[Path]]:
    """Folders like ``data`` for cross-validation of its training images: links to them in ``train/`` and ``val/``."""
    images = ImageFolder(data / "train")
    splits = StratifiedKFold(folds, shuffle=True, random_state=0).split(images.targets, images.targets)
    with TemporaryDirectory() as temporary:
        folders = []
        for fold, indices in enumerate(splits):
            folders.append(Path(temporary) / str(fold))
            for part, part_indices in zip(("train", "val"), indices, strict=True):
                for index in part_indices:
                    source = Path(images.samples[index][0]).resolve()
                    link = folders[-1] / part / source.relative_to((data / "train").resolve())
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(source)
        yield folders
