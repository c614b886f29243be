"""Full fine-tuning with fastai's Learner.

    python with_fastai.py PHOTOS EPOCHS BATCH

Prints the number of images and seconds as JSON.
"""

import json
import sys
import time

from fastai.vision.all import (
    Flip,
    ImageDataLoaders,
    LabelSmoothingCrossEntropy,
    Learner,
    Normalize,
    RandomResizedCrop,
    imagenet_stats,
)
from torchvision.models import mobilenet_v2


def main() -> None:
    """Train, and print the result."""
    photos, epochs, batch_size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    loaders = ImageDataLoaders.from_folder(
        f"{photos}/train", valid_pct=0.01, bs=batch_size, num_workers=2, device="cpu",
        item_tfms=RandomResizedCrop(224, min_scale=0.6),
        batch_tfms=[Flip(), Normalize.from_stats(*imagenet_stats)],
    )  # fmt: skip
    learner = Learner(loaders, mobilenet_v2(num_classes=loaders.c), loss_func=LabelSmoothingCrossEntropy())
    start = time.perf_counter()
    with learner.no_bar(), learner.no_logging():
        learner.fit(epochs, 1e-4, wd=0.01)
    print(json.dumps([epochs * (loaders.train.n // batch_size * batch_size), time.perf_counter() - start]))


if __name__ == "__main__":
    main()
