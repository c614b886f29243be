"""A forecast of a run's time, memory and disk: a few operations are timed and extrapolated."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor, nn

from graft.compute.devices import Compute, oom_as_training_error
from graft.config.parameters import TrainingParameters
from graft.config.training import TrainLoopConfig
from graft.features.feature_cache import count_missing_features
from graft.features.image_cache import count_uncached_images
from graft.features.image_reader import ImageReader
from graft.features.loaders import TrainingImages
from graft.features.model_tail import ModelTail, intermediate_features
from graft.features.split_model import SplitModel
from graft.models.backbones import build_model, preprocessing_for
from graft.models.fusion import fuse_conv_bn
from graft.models.stages import stage_names
from graft.models.transforms import evaluation_transform, training_transform
from graft.training.history import Phase
from graft.training.losses import Criterion
from graft.training.plan import TrainingPlan, make_plan
from graft.training.recipe import planned_phases, planned_splits, training_images
from graft.training.standalone import prepare_standalone
from graft.training.trainer import Trainer

REPEATS = 4  # of each timing; the first, which warms up, does not count
START_S, STEP_S, EPOCH_S, EXPORT_S = 16.0, 1.0, 0.15, 5.0  # overhead of run, step, epoch and export
NON_FOLD_STEPS = 12
LIBRARIES_BYTES = 450 * 10**6  # of ZenML and MLflow, which a forecast does not import
WEIGHT_COPIES = 4  # on disk: two checkpoints, the ONNX file, its copy in MLflow
SNAPSHOT_COPIES = 3  # of trainable weights: the weights and AdamW's two moments


@dataclass(frozen=True)
class Forecast:
    """Seconds by part of the run, peak memory, disk, and the part of the disk that the cache takes, in bytes."""

    seconds: dict[str, float]
    memory_bytes: int
    disk_bytes: int
    cache_bytes: int

    def describe(self) -> str:
        """Three lines of text: time, memory, disk."""
        parts = ", ".join(f"{part} {_duration(seconds)}" for part, seconds in self.seconds.items())
        return "\n".join([
            f"Time    about {_duration(sum(self.seconds.values()))} ({parts})",
            f"Memory  about {self.memory_bytes / 1e9:.1f} GB",
            f"Disk    about {self.disk_bytes / 1e6:,.0f} MB, {self.cache_bytes / 1e6:,.0f} MB of it in the cache",
        ])  # fmt: skip


def forecast(parameters: TrainingParameters) -> tuple[TrainingPlan, Forecast]:
    """The plan of a config, and a forecast of its run on this machine under its current load.

    Images are scanned and validated, with results that the next run reads from the cache. Raises what a run would
    raise before training.
    """
    training, folds = parameters.training, parameters.cross_validation.folds
    split, model = prepare_standalone(parameters)
    plan = make_plan(split, model, training, parameters.seed)
    training = plan.with_compute(training)
    network = build_model(model.config, len(split.classes), 0)
    images = training_images(split, preprocessing_for(model.config))
    timings = _Timings(network, images, training.train_config)
    phases = planned_phases(training, plan)
    stages = stage_names(network)
    epochs, tested_stages = planned_splits(phases, stages)

    split_model = SplitModel(network, "head", training.train_config, images.dataset)
    missing = count_missing_features(split_model, images, epochs, tested_stages)
    cacheable = {stage for stage in epochs if replace(split_model, split_stage=stage).is_cacheable}
    to_compute = {stage: count for stage, count in missing.items() if stage in cacheable}
    decode_s, image_bytes = timings.reading.cache_fill() if cacheable != set(epochs) else (0.0, 0)

    # The first fold tries every candidate; after it, at least the better half is left.
    warm_s, *tuned_s = [timings.train(phase, len(images.train)) + phase.epochs * EPOCH_S for phase in phases]
    test_s = sum(timings.evaluate(phase.first_trainable_stage(stages)) * phase.epochs for phase in phases)
    left_s = sorted(tuned_s)[len(tuned_s) // 2 :]
    share = (folds - 1) / folds
    first_fold_s = share * (warm_s + sum(tuned_s))
    other_folds_s = (folds - 1) * share * (warm_s + sum(left_s))
    testing_s = test_s * len(images.train)
    holdout_s = (timings.forward() + timings.reading.decode_full) * len(split.records("holdout"))
    seconds = {
        "frozen layers": max((n * timings.frozen_layers(stage) for stage, n in to_compute.items()), default=0.0),
        "decoding": decode_s,
        f"{folds} folds": first_fold_s + other_folds_s + testing_s + folds * STEP_S,
        "training": warm_s + max(tuned_s, default=0.0),
        "holdout": 2 * holdout_s,  # evaluated once, and compared with the exported model
        "pipeline": START_S + NON_FOLD_STEPS * STEP_S + EXPORT_S,
    }

    feature_bytes = sum(count * timings.feature_bytes(stage) for stage, count in to_compute.items())
    weight_bytes = sum(value.nbytes for value in network.state_dict().values())
    trainable_bytes = 4 * sum(stage.trainable for stage in plan.stages)
    snapshot_bytes = (len(phases) - 1 + folds) * SNAPSHOT_COPIES * trainable_bytes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    cache_bytes = feature_bytes + image_bytes
    disk_bytes = cache_bytes + WEIGHT_COPIES * weight_bytes + snapshot_bytes
    return plan, Forecast(seconds, peak + LIBRARIES_BYTES, disk_bytes, cache_bytes)


class _ReadTimings:
    """Seconds to decode and augment an image, timed on the first training images, and bytes of decoded images."""

    def __init__(self, images: TrainingImages, train_config: TrainLoopConfig) -> None:
        self.images, self.cache, dataset = images, train_config.cache, images.dataset
        self.augmented = training_transform(train_config.augmentation, dataset.preprocessing)
        self.exact = evaluation_transform(dataset.preprocessing)
        sample = images.train.head(train_config.batch_size)
        self.decode, decoded = _timed_reads(ImageReader(dataset.root, self.augmented), sample)
        self.decode_full, crops = _timed_reads(ImageReader(dataset.root, self.exact), sample)
        started = time.perf_counter()
        self.pixels = torch.stack([self.augmented.random(image) for image in decoded])
        self.augment = (time.perf_counter() - started) / len(sample)
        self.labels = torch.from_numpy(dataset.class_indices(sample["label"]))
        reduced = self.augmented.min_side_px is not None
        self.image_bytes = sum(image.nbytes for image in decoded) // len(sample) if reduced else 0
        self.crop_bytes = crops[0].nbytes
        self.evaluated = pd.concat([images.train, images.validation])
        needed = len(images.train) * self.image_bytes + len(self.evaluated) * self.crop_bytes
        self.cached_fraction = min(1.0, self.cache.max_gb * 1e9 / needed) if needed else 0.0

    def training_read(self) -> float:
        """Seconds per image in each epoch that trains from images."""
        return self.augment + (1 - self.cached_fraction) * self.decode

    def evaluation_read(self) -> float:
        """Seconds per image in each evaluation from images."""
        return (1 - self.cached_fraction) * self.decode_full

    def cache_fill(self) -> tuple[float, int]:
        """Seconds to decode, and bytes of, the images that the cache still lacks."""
        train = count_uncached_images(self.images.train, self.augmented, self.cache) if self.image_bytes else 0
        evaluated = count_uncached_images(self.evaluated, self.exact, self.cache)
        seconds = train * self.decode + evaluated * self.decode_full
        size = train * self.image_bytes + evaluated * self.crop_bytes
        return self.cached_fraction * seconds, round(self.cached_fraction * size)


class _Timings:
    """Seconds per image of each operation of a training, timed on the first training images."""

    def __init__(self, network: nn.Module, images: TrainingImages, train_config: TrainLoopConfig) -> None:
        self.images, self.train_config = images, train_config
        self.compute = Compute.from_config(train_config.compute)
        self.network = self.compute.model_to_device(network).eval()
        self.fused = fuse_conv_bn(self.network)
        self.reading = _ReadTimings(images, train_config)
        self.batch = self.compute.images_to_device(self.reading.pixels, images.dataset.preprocessing)

    def forward(self) -> float:
        """A forward pass of the whole model, without gradients."""
        with torch.inference_mode():
            return self._median(lambda: self.fused(self.batch))

    def frozen_layers(self, split_stage: str) -> float:
        """Decoding, augmenting, and a forward pass of the layers before a stage."""
        forward = self._median(lambda: intermediate_features(self.fused, self.batch, [split_stage]))
        return self.reading.decode + self.reading.augment + forward

    def train(self, phase: Phase, images: int) -> float:
        """A whole phase, without evaluations; in seconds, not seconds per image."""
        unfrozen = [phase.unfrozen_at(epoch) for epoch in range(phase.epochs)]
        step_s = {count: self._train_step(phase, count) for count in set(unfrozen)}
        return sum(step_s[count] * images for count in unfrozen)

    def evaluate(self, split_stage: str) -> float:
        """A forward pass from a stage on, or from images if features before it are not cacheable."""
        if not self._split(split_stage).is_cacheable:
            return self.forward() + self.reading.evaluation_read()
        with torch.inference_mode():
            tail, features = ModelTail(self.network, split_stage), self._features(split_stage)
            return self._median(lambda: tail(features))

    def feature_bytes(self, split_stage: str) -> int:
        """Bytes of one cached feature."""
        return self._features(split_stage)[0].numel() * (2 if self.train_config.cache.precision == "float16" else 4)

    def _train_step(self, phase: Phase, unfrozen: int) -> float:
        phase = replace(phase, unfreeze_epochs=(0,) * unfrozen)
        trainer = Trainer(self.network, phase, self.train_config, REPEATS, 0)
        trainer.start_epoch(0)
        cached = self._split(trainer.split_stage).is_cacheable
        tail = ModelTail(trainer.model, trainer.split_stage) if cached else None
        forward: Callable[[Tensor], Tensor] = tail or trainer.forward
        inputs = self._features(trainer.split_stage) if cached else self.batch
        loss_function = Criterion.from_config(self.train_config, self.images).loss
        labels, batches = self.reading.labels.to(self.compute.device), iter(range(1, REPEATS + 1))

        def step() -> None:
            with self.compute.autocast():
                logits = forward(inputs)
            trainer.backward_and_step(loss_function(logits, labels), next(batches))

        return self._median(step) + (0.0 if cached else self.reading.training_read())

    def _median(self, operation: Callable[[], object]) -> float:
        times = []
        with oom_as_training_error(self.train_config.batch_size), self.compute.context():
            for _ in range(REPEATS):
                started = time.perf_counter()
                operation()
                if self.compute.device.type != "cpu":
                    torch.accelerator.synchronize()
                times.append(time.perf_counter() - started)
        return statistics.median(times[1:]) / len(self.batch)

    def _split(self, stage: str) -> SplitModel:
        return SplitModel(self.network, stage, self.train_config, self.images.dataset)

    def _features(self, split_stage: str) -> Tensor:
        return intermediate_features(self.network, self.batch, [split_stage])[split_stage]


def _timed_reads(reader: ImageReader, records: pd.DataFrame) -> tuple[float, list[Tensor]]:
    """Seconds per image, and the images read."""
    started = time.perf_counter()
    images = [reader(path, sha256) for path, sha256 in zip(records["path"], records["sha256"], strict=True)]
    return (time.perf_counter() - started) / len(records), images


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
