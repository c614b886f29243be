"""fastai's ``fine_tune`` as in its vision tutorial: its head, its split, its augmentation and its defaults.

It trains on a random 80 % of the images and validates on the others after each epoch: one epoch of its head, then all
layers at learning rates that rise from the first to the last.
"""

import time
from pathlib import Path

from fastai.vision.all import (
    ImageDataLoaders,
    Normalize,
    Resize,
    aug_transforms,
    imagenet_stats,
    set_seed,
    vision_learner,
)
from torch import nn

from baselines.task import WORKERS, Outcome, Task, load_mobilenet_v2

LR_FACTORS = (0.3, 1.0, 3.0)
BASE_LR = 2e-3  # of Learner.fine_tune


def train_and_predict(task: Task) -> Outcome:
    """Fine-tune, and predict with the model of the last epoch."""

    def backbone(pretrained: bool) -> nn.Module:  # noqa: ARG001  # fastai passes it
        # fastai puts its head in place of the last module that pools; MobileNetV2 pools in no module of its own.
        return nn.Sequential(load_mobilenet_v2(task.weights).features, nn.AdaptiveAvgPool2d(1))

    set_seed(task.seed)
    start = time.perf_counter()
    loaders = ImageDataLoaders.from_folder(
        task.data / "train", valid_pct=0.2, seed=task.seed, vocab=task.classes, item_tfms=Resize(460),
        batch_tfms=[*aug_transforms(size=224), Normalize.from_stats(*imagenet_stats)],
        num_workers=WORKERS, device="cpu",
    )  # fmt: skip
    learner = vision_learner(loaders, backbone)
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(task.epochs - 1, BASE_LR * task.lr_factor, freeze_epochs=1)
    seconds = time.perf_counter() - start
    paths = task.holdout
    with learner.no_bar(), learner.no_logging():
        probabilities, _ = learner.get_preds(dl=loaders.test_dl([Path(task.data) / path for path in paths]))
    return Outcome(paths, probabilities.numpy(), seconds)
