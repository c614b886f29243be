"""Full fine-tuning with the Trainer of transformers; images are read and augmented as in its classification example.

    python with_transformers.py PHOTOS EPOCHS BATCH [fast]

``fast`` sets ``--bf16``. Prints the number of images and seconds as JSON.
"""

import json
import sys
import tempfile
import time

import torch
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, Normalize, RandomHorizontalFlip, RandomResizedCrop, ToTensor
from transformers import MobileNetV2Config, MobileNetV2ForImageClassification, Trainer, TrainingArguments


def main() -> None:
    """Train, and print the result."""
    photos, epochs, batch_size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    augment = Compose([
        RandomResizedCrop(224, scale=(0.6, 1.0)), RandomHorizontalFlip(), ToTensor(),
        Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])  # fmt: skip
    dataset = ImageFolder(f"{photos}/train", augment)
    model = MobileNetV2ForImageClassification(MobileNetV2Config(num_labels=len(dataset.classes)))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=epochs, per_device_train_batch_size=batch_size, learning_rate=1e-4,
            weight_decay=0.01, label_smoothing_factor=0.1, dataloader_num_workers=2, use_cpu=True,
            bf16=sys.argv[4:] == ["fast"], save_strategy="no", report_to=[], disable_tqdm=True,
            logging_strategy="no", remove_unused_columns=False,
        )  # fmt: skip
        trainer = Trainer(model, arguments, train_dataset=dataset, data_collator=collate)
        start = time.perf_counter()
        trainer.train()
        print(json.dumps([epochs * len(dataset), time.perf_counter() - start]))


def collate(items: list[tuple[torch.Tensor, int]]) -> dict[str, torch.Tensor]:
    """A batch by the names of the model's arguments."""
    return {
        "pixel_values": torch.stack([pixels for pixels, _ in items]),
        "labels": torch.tensor([label for _, label in items]),
    }


if __name__ == "__main__":
    main()
