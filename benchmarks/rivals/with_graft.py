"""Full fine-tuning with Graft's own loop, as its pipeline calls it.

    python with_graft.py PHOTOS EPOCHS BATCH WEIGHTS

It begins with trained weights: it refuses a network that says the same of every image. Prints images and seconds
as JSON: to choose precision and layout, to decode, and to train; ``$GRAFT_CACHE`` should be empty.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from graft.compute.trial import fastest
from graft.config import ModelConfig, SplitConfig
from graft.data.manifest import scan
from graft.data.splits import split_images
from graft.learning.history import Phase
from graft.networks.backbones import build, preprocessing, stages
from graft.recipe import images_of
from graft.training import Trained, train
from graft.training_config import LoopConfig


def main() -> None:
    """Train and print."""
    photos, epochs, batch = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    model = ModelConfig(architecture="mobilenet_v2", weights=sys.argv[4])
    manifest = scan(photos / "train")
    clusters = {path: number for number, path in enumerate(manifest.table["path"])}
    images = images_of(manifest.folder(), split_images(manifest, clusters, SplitConfig()), preprocessing(model))
    few = images.validation.groupby("label").head(2)
    images = replace(images, train=manifest.table, validation=few)
    network = build(model, len(images.source.classes), seed=0)
    phase = Phase("finetune", epochs, 1e-4, 0.3, None, (0,) * (len(stages(network)) - 1))
    loop = LoopConfig(batch_size=batch)
    start = time.perf_counter()
    loop = loop.model_copy(update={"compute": fastest(loop.compute, network)})
    train(Trained(network), phase, loop, images, 0, lambda *_: None)
    print(json.dumps([epochs * len(images.train), time.perf_counter() - start]))


if __name__ == "__main__":
    main()
