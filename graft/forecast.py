"""How long a run will take, how much memory and disk: a few steps are measured, the rest is multiplied."""

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

from graft.compute.devices import Compute, enough_memory
from graft.config import TrainingParameters
from graft.inputs.cut import Cut
from graft.inputs.datasets import Images
from graft.inputs.filling import missing_pixels
from graft.inputs.frozen_views import missing_ahead
from graft.inputs.pixels import Reader
from graft.learning.history import Phase
from graft.learning.learner import Learner
from graft.networks.backbones import build, preprocessing, stages
from graft.networks.features import Rest, stage_inputs
from graft.networks.fusing import fused
from graft.networks.transforms import evaluation_transform, training_transform
from graft.plan import TrainingPlan, make_plan
from graft.recipe import boundaries, images_of, phases, prepare
from graft.training import Task
from graft.training_config import LoopConfig

TRIALS = 4  # of which the first is not counted
START_S, STEP_S, EPOCH_S, EXPORT_S = 16.0, 1.0, 0.15, 5.0  # beside computing; a file is exported once
STEPS_BESIDE_FOLDS = 12
LIBRARIES_BYTES = 450 * 10**6  # of ZenML and MLflow, which a forecast does not load
COPIES = 4  # of all weights: two checkpoints, the file, its copy in MLflow
SNAPSHOT_COPIES = 4  # of what moves: now, at its best, and two moments


@dataclass(frozen=True)
class Forecast:
    """Seconds by part of the run, the peak of memory, what will be on disk, and how much of it the cache keeps."""

    seconds: dict[str, float]
    memory_bytes: int
    disk_bytes: int
    kept_bytes: int

    def in_words(self) -> str:
        """Three lines."""
        parts = ", ".join(f"{part} {_duration(seconds)}" for part, seconds in self.seconds.items())
        return "\n".join([
            f"Time    about {_duration(sum(self.seconds.values()))} ({parts})",
            f"Memory  about {self.memory_bytes / 1e9:.1f} GB",
            f"Disk    about {self.disk_bytes / 1e6:,.0f} MB, {self.kept_bytes / 1e6:,.0f} MB of it in the cache",
        ])  # fmt: skip


def forecast(parameters: TrainingParameters) -> tuple[TrainingPlan, Forecast]:
    """What a config's run will train, and what that will take on this machine as busy as it is now.

    Images are read and judged, as a run would; the next run finds that done. Raises what a run would raise.
    """
    training, folds = parameters.training, parameters.cross_validation.folds
    split, model = prepare(parameters)
    plan = make_plan(split.folder(), split, model, training, parameters.seed)
    training = plan.settled(training)
    network = build(model.config, len(split.classes), 0)
    images = images_of(split.folder(), split, preprocessing(model.config))
    trial = _Trial(network, images, training.loop)
    planned = phases(training, plan)
    epochs, judged = boundaries(planned, stages(network))
    first = Cut(network, "head", training.loop, images.source)
    missing = missing_ahead(first, images, epochs, judged)
    kept = {stage: count for stage, count in missing.items() if replace(first, stage=stage).can_be_kept}
    from_pixels = not all(replace(first, stage=stage).can_be_kept for stage in epochs)
    decoding, pixels = trial.reading.to_keep() if from_pixels else (0.0, 0)
    train, validation = len(images.train), len(images.validation)
    one = sum(trial.training(phase, train, validation) + phase.epochs * EPOCH_S for phase in planned)
    tested = sum(trial.judging(stage) for stage in judged) * (train + validation)
    share = (folds - 1) / folds
    seconds = {
        "frozen layers": max((count * trial.front(stage) for stage, count in kept.items()), default=0.0),
        "decoding": decoding,
        "training": one,
        f"{folds} folds": folds * share * one + tested + folds * STEP_S,
        "holdout": 2 * (trial.whole() + trial.reading.decoding_whole) * len(split.rows("holdout")),
        "pipeline": START_S + STEPS_BESIDE_FOLDS * STEP_S + EXPORT_S,
    }
    activations = sum(count * trial.bytes_of(stage) for stage, count in kept.items())
    weights = sum(value.nbytes for value in network.state_dict().values())
    moving = sum(stage.trainable for stage in plan.stages) * 4
    snapshots = (1 + folds) * SNAPSHOT_COPIES * moving
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    disk = activations + pixels + COPIES * weights + snapshots
    return plan, Forecast(seconds, peak + LIBRARIES_BYTES, disk, activations + pixels)


class _Reading:
    """Seconds to read an image, measured on the first training images, and what is kept of pixels."""

    def __init__(self, images: Images, loop: LoopConfig) -> None:
        self.images, self.cache, source = images, loop.cache, images.source
        self.varied = training_transform(loop.augmentation, source.preprocessing)
        self.exact = evaluation_transform(source.preprocessing)
        few = images.train.head(loop.batch_size)
        self.decoding, given = _timed(Reader(source.root, self.varied), few)
        self.decoding_whole, crops = _timed(Reader(source.root, self.exact), few)
        begun = time.perf_counter()
        self.pixels = torch.stack([self.varied.random(image) for image in given])
        self.varying = (time.perf_counter() - begun) / len(few)
        self.labels = torch.tensor([source.classes.index(label) for label in few["label"]])
        self.bytes = sum(image.nbytes for image in given) // len(few) if self.varied.at_least else 0
        self.crop_bytes = crops[0].nbytes
        self.judged = pd.concat([images.train, images.validation])
        needed = len(images.train) * self.bytes + len(self.judged) * self.crop_bytes
        self.kept_share = min(1.0, self.cache.max_gb * 1e9 / needed) if needed else 0.0

    def to_train(self) -> float:
        """In each epoch that trains from pixels."""
        return self.varying + (1 - self.kept_share) * self.decoding

    def to_judge(self) -> float:
        """In each epoch that judges from pixels."""
        return (1 - self.kept_share) * self.decoding_whole

    def to_keep(self) -> tuple[float, int]:
        """Seconds to decode all that is to be kept and is not yet, and its bytes."""
        trained = missing_pixels(self.images.train, self.varied, self.cache) if self.bytes else 0
        judged = missing_pixels(self.judged, self.exact, self.cache)
        seconds = trained * self.decoding + judged * self.decoding_whole
        held = trained * self.bytes + judged * self.crop_bytes
        return self.kept_share * seconds, round(self.kept_share * held)


class _Trial:
    """Seconds an image, measured on the first training images."""

    def __init__(self, network: nn.Module, images: Images, loop: LoopConfig) -> None:
        self.images, self.loop, self.compute = images, loop, Compute.of(loop.compute)
        self.network = self.compute.place_model(network).eval()
        self.fused = fused(self.network)
        self.reading = _Reading(images, loop)
        self.placed = self.compute.place_images(self.reading.pixels, images.source.preprocessing)

    def whole(self) -> float:
        """To compute all without a gradient."""
        with torch.inference_mode():
            return self._median(lambda: self.fused(self.placed))

    def front(self, stage: str) -> float:
        """To decode, augment and compute what reaches a stage."""
        computing = self._median(lambda: stage_inputs(self.fused, self.placed, [stage]))
        return self.reading.decoding + self.reading.varying + computing

    def training(self, phase: Phase, images: int, validated: int) -> float:
        """Seconds of a whole phase."""
        names = stages(self.network)
        thawed = [phase.unfrozen_at(epoch) for epoch in range(phase.epochs)]
        costs = {count: self._step(phase, count) for count in set(thawed)}
        judging = {count: self.judging(names[-1 - count]) for count in set(thawed)}
        return sum(costs[count] * images + judging[count] * validated for count in thawed)

    def judging(self, stage: str) -> float:
        """To compute from a stage on without a gradient, or from pixels where nothing before it is kept."""
        if not self._cut(stage).can_be_kept:
            return self.whole() + self.reading.to_judge()
        with torch.inference_mode():
            rest, given = Rest(self.network, stage), self._given(stage)
            return self._median(lambda: rest(given))

    def bytes_of(self, stage: str) -> int:
        """What is kept of one view."""
        return self._given(stage)[0].numel() * (2 if self.loop.cache.precision == "float16" else 4)

    def _step(self, phase: Phase, thawed: int) -> float:
        now = replace(phase, thaw_epochs=(0,) * thawed)
        learner = Learner(self.network, now, self.loop, TRIALS, 0)
        learner.begin(0)
        kept = self._cut(learner.boundary).can_be_kept
        forward: Callable[[Tensor], Tensor] = Rest(learner.model, learner.boundary) if kept else learner.forward
        given = self._given(learner.boundary) if kept else self.placed
        objective = Task.of(self.images, phase, self.loop).objective
        labels, numbers = self.reading.labels.to(self.compute.device), iter(range(1, TRIALS + 1))

        def step() -> None:
            with self.compute.autocast():
                logits = forward(given)
            learner.learn(objective(logits, labels), next(numbers))

        return self._median(step) + (0.0 if kept else self.reading.to_train())

    def _median(self, work: Callable[[], object]) -> float:
        times = []
        with enough_memory(self.loop.batch_size), self.compute.running():
            for _ in range(TRIALS):
                begun = time.perf_counter()
                work()
                if self.compute.device.type != "cpu":
                    torch.accelerator.synchronize()
                times.append(time.perf_counter() - begun)
        return statistics.median(times[1:]) / len(self.placed)

    def _cut(self, stage: str) -> Cut:
        return Cut(self.network, stage, self.loop, self.images.source)

    def _given(self, stage: str) -> Tensor:
        return stage_inputs(self.network, self.placed, [stage])[stage]


def _timed(reader: Reader, rows: pd.DataFrame) -> tuple[float, list[Tensor]]:
    """Images as a reader gives them, and in how many seconds each."""
    begun = time.perf_counter()
    read = [reader(path, sha256) for path, sha256 in zip(rows["path"], rows["sha256"], strict=True)]
    return (time.perf_counter() - begun) / len(rows), read


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
