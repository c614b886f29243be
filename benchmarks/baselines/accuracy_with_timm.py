"""The recipe of timm's ``train.py`` with its defaults, but in batches of 32.

That is SGD with Nesterov momentum at a learning rate of 0.1 per 256 images of a batch, five epochs of warm-up, cosine
decay, weight decay 2e-5, label smoothing 0.1, crops of 8 to 100 % of the area, flips and colour jitter, no dropout, no
moving average of the weights. Its batches of 128, the last of which is dropped if not full, would be one step per epoch
for 244 images.
"""

import time
from pathlib import Path

import torch
from timm.data import create_transform
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import random_seed
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from baselines.task import WORKERS, Outcome, Task, load_mobilenet_v2

LR_FACTORS = (0.1, 0.3, 1.0, 3.0)
BATCH_SIZE = 32
LEARNING_RATE = 0.1 * BATCH_SIZE / 256
AUGMENT = create_transform(224, is_training=True, color_jitter=0.4, interpolation="random")
CENTER_CROP = create_transform(224, crop_pct=0.875)


def train_and_predict(task: Task) -> Outcome:
    """Train, and predict with the model of the last epoch."""
    random_seed(task.seed)
    start = time.perf_counter()
    images = ImageFolder(task.data / "train", AUGMENT)
    batches = DataLoader(images, BATCH_SIZE, shuffle=True, num_workers=WORKERS, drop_last=True, persistent_workers=True)
    model = load_mobilenet_v2(task.weights)
    model.classifier = nn.Linear(1280, len(task.classes))
    optimizer = create_optimizer_v2(
        model, opt="sgd", lr=LEARNING_RATE * task.lr_factor, momentum=0.9, weight_decay=2e-5
    )
    scheduler, epochs = create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=task.epochs, warmup_epochs=5, warmup_lr=1e-5, min_lr=0.0
    )
    criterion = LabelSmoothingCrossEntropy(smoothing=0.1)
    for epoch in range(epochs):
        model.train()
        for pixels, labels in batches:
            optimizer.zero_grad()
            criterion(model(pixels), labels).backward()
            optimizer.step()
        scheduler.step(epoch + 1)
    seconds = time.perf_counter() - start
    holdout = ImageFolder(task.data / "val", CENTER_CROP)
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(pixels) for pixels, _ in DataLoader(holdout, BATCH_SIZE, num_workers=WORKERS)])
    paths = [str(Path(path).relative_to(task.data)) for path, _ in holdout.samples]
    return Outcome(paths, logits.softmax(dim=1).numpy(), seconds)
