"""The Trainer of transformers with its defaults; images as in its example ``run_image_classification.py``.

That is AdamW without weight decay, a learning rate of 5e-5 that decays linearly, batches of 8, gradients clipped at 1.
It trains on all images: the example would set 15 % aside, and use them for a report only.
"""

import tempfile
import time
from pathlib import Path

import torch
from torch import nn
from torchvision.datasets import ImageFolder
from torchvision.transforms import (
    CenterCrop,
    Compose,
    Normalize,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
    ToTensor,
)
from transformers import Trainer, TrainingArguments, set_seed

from baselines.task import IMAGENET_MEAN, IMAGENET_STD, WORKERS, Outcome, Task, load_mobilenet_v2

LR_FACTORS = (1.0, 4.0, 16.0, 64.0)  # its default is for large transformers
NORMALIZE = (ToTensor(), Normalize(IMAGENET_MEAN, IMAGENET_STD))
AUGMENT = Compose([RandomResizedCrop(224), RandomHorizontalFlip(), *NORMALIZE])
CENTER_CROP = Compose([Resize(224), CenterCrop(224), *NORMALIZE])


class ImageClassifier(nn.Module):
    """MobileNetV2 with the arguments and results that the Trainer expects of a model."""

    def __init__(self, weights: Path, classes: int) -> None:
        super().__init__()
        self.network = load_mobilenet_v2(weights)
        self.network.classifier[1] = nn.Linear(1280, classes)

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Loss and logits ``[images, classes]``."""
        logits = self.network(pixel_values)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def train_and_predict(task: Task) -> Outcome:
    """Train, and predict with the model of the last epoch."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=task.epochs, seed=task.seed, dataloader_num_workers=WORKERS, use_cpu=True,
            save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True,
        )  # fmt: skip
        arguments.learning_rate *= task.lr_factor
        set_seed(task.seed)
        start = time.perf_counter()
        model = ImageClassifier(task.weights, len(task.classes))
        images = ImageFolder(task.data / "train", AUGMENT)
        trainer = Trainer(model, arguments, train_dataset=images, data_collator=collate)
        trainer.train()
        seconds = time.perf_counter() - start
        holdout = ImageFolder(task.data / "val", CENTER_CROP)
        logits = torch.from_numpy(trainer.predict(holdout).predictions)
    paths = [str(Path(path).relative_to(task.data)) for path, _ in holdout.samples]
    return Outcome(paths, logits.softmax(dim=1).numpy(), seconds)


def collate(items: list[tuple[torch.Tensor, int]]) -> dict[str, torch.Tensor]:
    """A batch by the names of the model's arguments."""
    return {
        "pixel_values": torch.stack([pixels for pixels, _ in items]),
        "labels": torch.tensor([label for _, label in items]),
    }
