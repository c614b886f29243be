"""Full fine-tuning with Graft's training loop, as its pipeline calls it.

    python with_graft.py PHOTOS EPOCHS BATCH WEIGHTS

It starts from pretrained weights, because a guard stops the training of a network whose outputs are the same for all
images. Prints the number of images and seconds as JSON; the time includes the choice of precision and memory format,
decoding and training. ``$GRAFT_CACHE`` should be empty.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from graft.compute.autotune import autotune
from graft.config.parameters import ModelConfig, SplitConfig
from graft.config.training import TrainLoopConfig
from graft.data.manifest import scan
from graft.data.splits import split_images
from graft.models.backbones import build_model, preprocessing_for
from graft.models.stages import stage_names
from graft.training.history import FINE_TUNE, Phase
from graft.training.loop import TrainResult, train
from graft.training.recipe import training_images


def main() -> None:
    """Train, and print the result."""
    photos, epochs, batch_size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    model = ModelConfig(architecture="mobilenet_v2", weights=sys.argv[4])
    manifest = scan(photos / "train")
    clusters = {path: number for number, path in enumerate(manifest.table["path"])}
    images = training_images(split_images(manifest, clusters, SplitConfig()), preprocessing_for(model))
    # Trains on all images and validates on two per class: the baselines do not validate.
    few = images.validation.groupby("label").head(2)
    images = replace(images, train=manifest.table, validation=few)
    network = build_model(model, len(images.dataset.classes), seed=0)
    unfreeze_epochs = (0,) * (len(stage_names(network)) - 1)
    phase = Phase(FINE_TUNE, epochs, learning_rate=1e-4, layer_decay=0.3, unfreeze_epochs=unfreeze_epochs)
    train_config = TrainLoopConfig(batch_size=batch_size)
    start = time.perf_counter()
    train_config = train_config.model_copy(update={"compute": autotune(train_config.compute, network)})
    train(TrainResult(network), phase, train_config, images, seed=0, on_epoch_end=lambda *_: None)
    print(json.dumps([epochs * len(images.train), time.perf_counter() - start]))


if __name__ == "__main__":
    main()
