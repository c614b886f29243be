"""Where a trainer's batches come from: images, or cached features of its frozen layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from torch import Tensor

from graft.config.training import TrainLoopConfig
from graft.evaluation.evaluate import evaluate, evaluate_features
from graft.evaluation.metrics import Predictions
from graft.features.feature_cache import cache_evaluation_features, cache_training_features
from graft.features.image_cache import cached_eval_reader, cached_reader
from graft.features.image_reader import ImageReader
from graft.features.loaders import (
    AugmentationSeeds,
    Batch,
    ImageViews,
    TrainingBatches,
    TrainingImages,
    view_batches,
)
from graft.features.model_tail import ModelTail, pre_logits
from graft.features.sources import FeatureSource
from graft.features.split_model import FeatureSpec, SplitModel
from graft.models.stages import stage_names
from graft.models.transforms import training_transform
from graft.training.history import Phase
from graft.training.trainer import Trainer

SAMPLE_SIZE = 16


class BatchSource(ABC):
    """Batches of a trainer's inputs, and the forward pass from these inputs to logits."""

    def __init__(self, trainer: Trainer, images: TrainingImages, batches: TrainingBatches) -> None:
        self.trainer, self.images, self.batches = trainer, images, batches

    @abstractmethod
    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The training batches of one epoch: inputs, labels and indices of the images."""

    @abstractmethod
    def to_device(self, inputs: Tensor) -> Tensor:
        """A batch's inputs float32 on the trainer's device."""

    @abstractmethod
    def forward(self, inputs: Tensor) -> Tensor:
        """Logits ``[batch, classes]``."""

    @abstractmethod
    def evaluate(self) -> Predictions | None:
        """Predictions on the validation images; None if there are none."""

    @abstractmethod
    def sample_pre_logits(self) -> Tensor:
        """Inputs of the head ``[16, features]`` for the first training images."""


class ImageBatches(BatchSource):
    """Augmented images, for the whole model."""

    def __init__(
        self, trainer: Trainer, images: TrainingImages, batches: TrainingBatches, eval_reader: ImageReader
    ) -> None:
        super().__init__(trainer, images, batches)
        self.eval_reader = eval_reader

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The training batches of one epoch."""
        for reader in (self.batches.reader, self.eval_reader):
            reader.mark_used()
        return self.batches.epoch(epoch)

    def to_device(self, inputs: Tensor) -> Tensor:
        """Normalised images; raises ``TrainingError`` if pixels are out of range."""
        return self.trainer.compute.images_to_device(inputs, self.images.dataset.preprocessing)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of the whole model."""
        return self.trainer.forward(inputs)

    def evaluate(self) -> Predictions | None:
        """Predictions of the whole model."""
        if self.images.validation.empty:
            return None
        return evaluate(
            self.trainer.eval_model, self.images.dataset, self.images.validation,
            compute=self.trainer.train_config.compute, reader=self.eval_reader,
        )  # fmt: skip

    def sample_pre_logits(self) -> Tensor:
        """Inputs of the head, computed by the whole model."""
        records = self.images.train.head(SAMPLE_SIZE)
        requested = [(path, sha256, [0]) for path, sha256 in zip(records["path"], records["sha256"], strict=True)]
        crops, _ = next(view_batches(ImageViews(self.batches.reader, requested), SAMPLE_SIZE))
        return pre_logits(self.trainer.model, self.to_device(crops))


class FeatureBatches(BatchSource):
    """Features of the frozen layers, for the tail of the model."""

    def __init__(
        self, trainer: Trainer, images: TrainingImages, batches: TrainingBatches,
        train: FeatureSource, validation: FeatureSource | None,
    ) -> None:  # fmt: skip
        super().__init__(trainer, images, batches)
        self.train, self.validation = train, validation
        self.tail = ModelTail(trainer.model, trainer.split_stage)
        self.eval_tail = ModelTail(trainer.eval_model, trainer.split_stage) if trainer.ema else self.tail

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The training batches of one epoch."""
        return self.train.epoch(self.batches, epoch)

    def to_device(self, inputs: Tensor) -> Tensor:
        """Features, in float32 on the device."""
        return self.trainer.compute.features_to_device(inputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of the tail."""
        return self.tail(inputs)

    def evaluate(self) -> Predictions | None:
        """Predictions of the tail."""
        if self.validation is None:
            return None
        return evaluate_features(
            self.eval_tail, self.validation, self.images.dataset, self.images.validation, self.trainer.compute
        )

    def sample_pre_logits(self) -> Tensor:
        """Inputs of the head, computed by the tail."""
        return self.tail.pre_logits(self.to_device(next(self.train.in_order(SAMPLE_SIZE))))


class BatchSources:
    """The batch source of each part of a phase: cached features while any layer is frozen, images otherwise."""

    def __init__(self, images: TrainingImages, phase: Phase, train_config: TrainLoopConfig, seed: int) -> None:
        self.images, self.phase, self.train_config, self.seed = images, phase, train_config, seed
        self.batches_per_epoch = len(self._batches(None))
        self._source: BatchSource | None = None
        self._split_stage = ""

    def prepare(self, trainer: Trainer) -> BatchSource:
        """The source for what is frozen in the trainer now.

        The first call, and the first after a stage was unfrozen, fills the disk cache with what it lacks: features
        of the frozen layers, or decoded images.
        """
        if self._source is None or self._split_stage != trainer.split_stage:
            self._source, self._split_stage = self._create(trainer), trainer.split_stage
        return self._source

    def _create(self, trainer: Trainer) -> BatchSource:
        split_model = SplitModel(trainer.model, trainer.split_stage, self.train_config, self.images.dataset)
        if not split_model.is_cacheable:
            return self._image_batches(trainer)
        epochs = self.phase.split_stages(stage_names(trainer.model))[trainer.split_stage]
        train = cache_training_features(split_model, self.images.train, epochs)
        validation = None
        if not self.images.validation.empty:
            validation = cache_evaluation_features(split_model, self.images.validation)
        reader = ImageReader(self.images.dataset.root, FeatureSpec.for_training(split_model).transform)
        return FeatureBatches(trainer, self.images, self._batches(train.views, reader), train, validation)

    def _image_batches(self, trainer: Trainer) -> ImageBatches:
        dataset, cache = self.images.dataset, self.train_config.cache
        transform = training_transform(self.train_config.augmentation, dataset.preprocessing)
        batches = self._batches(None, cached_reader(dataset, self.images.train, transform, cache))
        return ImageBatches(trainer, self.images, batches, cached_eval_reader(dataset, self.images.validation, cache))

    def _batches(self, views: int | None, reader: ImageReader | None = None) -> TrainingBatches:
        seeds = AugmentationSeeds(self.seed, views)
        return TrainingBatches(self.images.dataset, self.images.train, self.train_config, seeds, reader)
