"""How fast each way of computing trains and evaluates, beside plain float32: ratios of neighbours in time.

    python benchmarks/compute.py --architecture mobilenet_v2

Steps on random images, the last two stages thawed; the first steps of each way are not counted.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time

import torch

import graft.runtime.quiet  # noqa: F401
from graft.config import ModelConfig
from graft.learning.history import Phase
from graft.learning.learner import Learner
from graft.learning.objective import Objective
from graft.networks.backbones import build, preprocessing
from graft.networks.transforms import Preprocessing
from graft.training_config import ComputeConfig, LoopConfig

WAYS = {
    "float32": ComputeConfig(precision="float32", channels_last=False),
    "channels last": ComputeConfig(precision="float32", channels_last=True),
    "bfloat16": ComputeConfig(precision="bfloat16", channels_last=True),
    "compiled": ComputeConfig(precision="float32", channels_last=True, compile=True),
}
BATCH = 16


def main() -> None:
    """Alternate the ways for some rounds, and print each one's ratio to the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="mobilenet_v2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    model = ModelConfig(architecture=options.architecture, weights="none")
    shape = preprocessing(model)
    pixels = torch.randint(0, 256, (BATCH, 3, shape.crop_px, shape.crop_px), dtype=torch.uint8)
    phase = Phase("finetune", 1, 1e-4, 0.3, None, (0, 0))
    learners = {
        name: Learner(build(model, 10, 0), phase, LoopConfig(compute=way), 10_000, 0) for name, way in WAYS.items()
    }
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for learner in learners.values():
        train(learner, pixels, shape, 2)
    for _ in range(options.rounds):
        for name, learner in learners.items():
            times[name].append(train(learner, pixels, shape, options.steps) / options.steps / BATCH * 1000)
    print(f"{options.architecture}, {shape.crop_px} px, {platform.machine()}, {torch.get_num_threads()} threads")
    for name, each in times.items():
        ratios = [one / first for one, first in zip(each, times["float32"], strict=True)]
        print(
            f"{name:14} {statistics.median(each):6.1f} ms an image   {statistics.median(ratios):.2f} of float32's"
        )


def train(learner: Learner, pixels: torch.Tensor, shape: Preprocessing, steps: int) -> float:
    """Take some steps; returns seconds."""
    device = learner.compute.device
    objective, labels = Objective(learner.loop.loss, [1] * 10, device), torch.arange(BATCH, device=device) % 10
    learner.begin(0)
    start = time.perf_counter()
    for number in range(1, steps + 1):
        with learner.compute.autocast():
            logits = learner.forward(learner.compute.place_images(pixels, shape))
        loss = objective(logits, labels)
        learner.learn(loss, number)
        loss.item()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
