"""Compares ten epochs of head warm-up with one plain forward pass over the same images: seconds, and their ratio.

    python benchmarks/warm_up.py configs/photos.yaml --set data.root=PHOTOS --set model.weights=FILE [--json FILE]

Graft starts with an empty cache, computes the inputs of the head, and trains it for ten epochs with a validation after
each. The plain pass decodes, resizes and normalises each image with torchvision in one worker process, and runs the
network in eval mode on batches of 32, in float32. Both run in turn, in one process.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

import graft.integrations.logging_setup  # noqa: F401
from graft.compute.autotune import autotune, describe
from graft.config.training import TrainLoopConfig, WarmUpConfig
from graft.config.yaml_file import training_parameters
from graft.features.loaders import TrainingImages
from graft.models.backbones import build_model, preprocessing_for
from graft.models.transforms import Preprocessing
from graft.training.history import Phase
from graft.training.loop import TrainResult, train
from graft.training.recipe import training_images
from graft.training.standalone import prepare_standalone
from saving import save_results

EPOCHS = 10


def main() -> None:
    """Time both in turn, and print medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="save the results to this file")
    options = parser.parse_args()
    parameters = training_parameters(options.config, options.set)
    split, model = prepare_standalone(parameters)
    preprocessing = preprocessing_for(model.config)
    images = training_images(split, preprocessing)
    network = build_model(model.config, len(split.classes), 0).eval()
    compute = autotune(parameters.training.compute, network)
    train_config = parameters.training.train_config.model_copy(update={"compute": compute})
    rounds = []
    for _ in range(options.rounds):
        rounds.append((time_warm_up(network, train_config, images), time_plain_pass(network, preprocessing, images)))
    warm_up_s, plain_s = (statistics.median(seconds) for seconds in zip(*rounds, strict=True))
    ratio = statistics.median(graft / plain for graft, plain in rounds)
    count = len(images.train) + len(images.validation)
    save_results({"seconds": rounds, "ratio": ratio, "images": count}, options.json)
    print(f"{count} images, {platform.machine()}; Graft computes in {describe(compute)}; medians:")
    print(f"warm-up, {EPOCHS} epochs {warm_up_s:7.1f} s")
    print(f"plain forward pass {plain_s:7.1f} s")
    print(f"ratio              {ratio:7.2f}")


def time_warm_up(network: nn.Module, train_config: TrainLoopConfig, images: TrainingImages) -> float:
    """Seconds of a warm-up with an empty cache."""
    phase = Phase.warm_up(WarmUpConfig(epochs=EPOCHS))
    with tempfile.TemporaryDirectory() as cache:
        os.environ["GRAFT_CACHE"] = cache
        start = time.perf_counter()
        train(TrainResult(network), phase, train_config, images, seed=0, on_epoch_end=lambda *_: None)
        return time.perf_counter() - start


class _PlainImages(Dataset[Tensor]):
    def __init__(self, paths: list[Path], preprocessing: Preprocessing) -> None:
        self.paths = paths
        self.transform = v2.Compose([
            v2.ToImage(), v2.Resize(preprocessing.resize_px), v2.CenterCrop(preprocessing.crop_px),
            v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(preprocessing.mean), list(preprocessing.std)),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.paths[index]) as image:
            pixels: Tensor = self.transform(image.convert("RGB"))
        return pixels


def time_plain_pass(network: nn.Module, preprocessing: Preprocessing, images: TrainingImages) -> float:
    """Seconds of one forward pass over all images."""
    paths = [images.dataset.root / path for records in (images.train, images.validation) for path in records["path"]]
    start = time.perf_counter()
    with torch.inference_mode():
        for batch in DataLoader(_PlainImages(paths, preprocessing), 32, num_workers=1):
            network(batch)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
