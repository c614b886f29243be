"""Compares the training speed of several compute settings with plain float32.

    python benchmarks/compute.py --architecture mobilenet_v2

Runs training steps on random images with the last two stages unfrozen. Settings alternate within each round, and
ratios are computed within a round. The first steps of each setting are not counted.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time

import torch

import graft.integrations.logging_setup  # noqa: F401
from graft.config.parameters import ModelConfig
from graft.config.training import ComputeConfig, TrainLoopConfig
from graft.models.backbones import build_model, preprocessing_for
from graft.models.transforms import Preprocessing
from graft.training.history import FINE_TUNE, Phase
from graft.training.losses import ClassificationLoss
from graft.training.trainer import Trainer

SETTINGS = {
    "float32": ComputeConfig(precision="float32", channels_last=False),
    "channels last": ComputeConfig(precision="float32", channels_last=True),
    "bfloat16": ComputeConfig(precision="bfloat16", channels_last=True),
    "compiled": ComputeConfig(precision="float32", channels_last=True, compile=True),
}
BATCH = 16


def main() -> None:
    """Time all settings in turn, and print the median ratio of each to float32."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="mobilenet_v2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    model = ModelConfig(architecture=options.architecture, weights="none")
    preprocessing = preprocessing_for(model)
    crop_px = preprocessing.crop_px
    pixels = torch.randint(0, 256, (BATCH, 3, crop_px, crop_px), dtype=torch.uint8)
    phase = Phase(FINE_TUNE, epochs=1, learning_rate=1e-4, layer_decay=0.3, unfreeze_epochs=(0, 0))
    trainers = {
        name: Trainer(build_model(model, 10, 0), phase, TrainLoopConfig(compute=compute), 10_000, 0)
        for name, compute in SETTINGS.items()
    }
    times: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for trainer in trainers.values():
        train(trainer, pixels, preprocessing, 2)
    for _ in range(options.rounds):
        for name, trainer in trainers.items():
            seconds = train(trainer, pixels, preprocessing, options.steps)
            times[name].append(seconds / options.steps / BATCH * 1000)
    print(f"{options.architecture}, {crop_px} px, {platform.machine()}, {torch.get_num_threads()} threads")
    for name, milliseconds in times.items():
        ratios = [time_ms / float32_ms for time_ms, float32_ms in zip(milliseconds, times["float32"], strict=True)]
        print(
            f"{name:14} {statistics.median(milliseconds):6.1f} ms per image   "
            f"{statistics.median(ratios):.2f} of float32"
        )


def train(trainer: Trainer, pixels: torch.Tensor, preprocessing: Preprocessing, steps: int) -> float:
    """Run training steps on the same batch; returns seconds."""
    device = trainer.compute.device
    loss_function = ClassificationLoss(trainer.train_config.loss, [1] * 10, device)
    labels = torch.arange(BATCH, device=device) % 10
    trainer.start_epoch(0)
    start = time.perf_counter()
    for batch in range(1, steps + 1):
        with trainer.compute.autocast():
            logits = trainer.forward(trainer.compute.images_to_device(pixels, preprocessing))
        loss = loss_function(logits, labels)
        trainer.backward_and_step(loss, batch)
        loss.item()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
