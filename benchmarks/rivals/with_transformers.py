"""Full fine-tuning with the Trainer of transformers, images read and varied as in its example for classification.

    python with_transformers.py PHOTOS EPOCHS BATCH [fast]

``fast`` sets ``--bf16``. Prints images and seconds as JSON.
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
    """Train and print."""
    photos, epochs, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    vary = Compose([
        RandomResizedCrop(224, scale=(0.6, 1.0)), RandomHorizontalFlip(), ToTensor(),
        Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])  # fmt: skip
    dataset = ImageFolder(f"{photos}/train", vary)
    model = MobileNetV2ForImageClassification(MobileNetV2Config(num_labels=len(dataset.classes)))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=epochs, per_device_train_batch_size=batch, learning_rate=1e-4,
            weight_decay=0.01, label_smoothing_factor=0.1, dataloader_num_workers=2, use_cpu=True,
            bf16=sys.argv[4:] == ["fast"], save_strategy="no", report_to=[], disable_tqdm=True,
            logging_strategy="no", remove_unused_columns=False,
        )  # fmt: skip
        trainer = Trainer(model, arguments, train_dataset=dataset, data_collator=collated)
        start = time.perf_counter()
        trainer.train()
        print(json.dumps([epochs * len(dataset), time.perf_counter() - start]))


def collated(items: list[tuple[torch.Tensor, int]]) -> dict[str, torch.Tensor]:
    """A batch under the names that the model's arguments have."""
    return {
        "pixel_values": torch.stack([pixels for pixels, _ in items]),
        "labels": torch.tensor([label for _, label in items]),
    }


if __name__ == "__main__":
    main()
