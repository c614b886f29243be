"""Ten epochs of warm-up against one plain forward pass over the same images: seconds, and their ratio.

    python benchmarks/warm_up.py configs/photos.yaml --set data.root=PHOTOS --set model.weights=FILE [--json FILE]

Graft begins with an empty cache, computes what reaches the head, and trains it for ten epochs, validating after
each. The plain pass decodes, resizes and normalises each image with torchvision, one worker beside, and runs the
network in evaluation mode on batches of 32, in float32. They are timed in turn, in one process.
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

import graft.runtime.quiet  # noqa: F401
from graft.compute.trial import fastest, in_words
from graft.config_file import training_parameters
from graft.inputs.datasets import Images
from graft.learning.history import Phase
from graft.networks.backbones import build, preprocessing
from graft.networks.transforms import Preprocessing
from graft.recipe import images_of, prepare
from graft.training import Trained, train
from graft.training_config import LoopConfig, WarmUpConfig
from keeping import keep

EPOCHS = 10


def main() -> None:
    """Time both in turn, and print medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="keep the figures here")
    options = parser.parse_args()
    parameters = training_parameters(options.config, options.set)
    split, model = prepare(parameters)
    shape = preprocessing(model.config)
    images = images_of(split.folder(), split, shape)
    network = build(model.config, len(split.classes), 0).eval()
    compute = fastest(parameters.training.compute, network)
    loop = parameters.training.loop.model_copy(update={"compute": compute})
    found = []
    for _ in range(options.rounds):
        found.append((by_graft(network, loop, images), by_plain_pass(network, shape, images)))
    ours, plain = (statistics.median(each) for each in zip(*found, strict=True))
    ratio = statistics.median(one / other for one, other in found)
    count = len(images.train) + len(images.validation)
    keep({"seconds": found, "ratio": ratio, "images": count}, options.json)
    print(f"{count} images, {platform.machine()}; Graft computes in {in_words(compute)}; medians:")
    print(f"warm-up, {EPOCHS} epochs {ours:7.1f} s")
    print(f"plain forward pass {plain:7.1f} s")
    print(f"ratio              {ratio:7.2f}")


def by_graft(network: nn.Module, loop: LoopConfig, images: Images) -> float:
    """Seconds of a warm-up that knows nothing yet."""
    phase = Phase.warm_up(WarmUpConfig(epochs=EPOCHS))
    with tempfile.TemporaryDirectory() as cache:
        os.environ["GRAFT_CACHE"] = cache
        start = time.perf_counter()
        train(Trained(network), phase, loop, images, 0, lambda *_: None)
        return time.perf_counter() - start


class _Pictures(Dataset[Tensor]):
    def __init__(self, paths: list[Path], shape: Preprocessing) -> None:
        self.paths = paths
        self.transform = v2.Compose([
            v2.ToImage(), v2.Resize(shape.resize_px), v2.CenterCrop(shape.crop_px),
            v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(shape.mean), list(shape.std)),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.paths[index]) as image:
            pixels: Tensor = self.transform(image.convert("RGB"))
        return pixels


def by_plain_pass(network: nn.Module, shape: Preprocessing, images: Images) -> float:
    """Seconds to run the network over all images once."""
    paths = [images.source.root / path for rows in (images.train, images.validation) for path in rows["path"]]
    start = time.perf_counter()
    with torch.inference_mode():
        for batch in DataLoader(_Pictures(paths, shape), 32, num_workers=1):
            network(batch)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
