"""What a training draws its batches from: pixels, or what frozen layers gave of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from torch import Tensor

from graft.inputs.cut import Cut
from graft.inputs.datasets import Batch, Images, TrainingBatches, Variety, Views, view_batches
from graft.inputs.filling import kept_crops, kept_pixels
from graft.inputs.frozen_views import FrozenViews, count_views, evaluation_views, training_views
from graft.inputs.pixels import Reader
from graft.learning.evaluation import evaluate, judge
from graft.learning.history import Phase
from graft.learning.learner import Learner
from graft.learning.metrics import Predictions
from graft.networks.backbones import stages
from graft.networks.features import Rest, head_inputs
from graft.networks.transforms import training_transform
from graft.training_config import LoopConfig

LOOKED_AT = 16  # images, to see whether features differ


class Inputs(ABC):
    """Batches of what a learner takes in."""

    def __init__(self, learner: Learner, images: Images, batches: TrainingBatches) -> None:
        self.learner, self.images, self.batches = learner, images, batches

    @abstractmethod
    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch."""

    @abstractmethod
    def place(self, given: Tensor) -> Tensor:
        """A batch on the device, in float32."""

    @abstractmethod
    def forward(self, placed: Tensor) -> Tensor:
        """Logits ``[batch, classes]``."""

    @abstractmethod
    def judge(self) -> Predictions:
        """What the model that counts says of the validation images."""

    @abstractmethod
    def sample(self) -> Tensor:
        """What some images give on their way to the head ``[images, features]``."""


class Pixels(Inputs):
    """Pixels, of which the whole network computes."""

    def __init__(self, learner: Learner, images: Images, batches: TrainingBatches, crops: Reader) -> None:
        super().__init__(learner, images, batches)
        self.crops = crops

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch."""
        for reader in (self.batches.reader, self.crops):
            reader.touch()
        return self.batches.epoch(epoch)

    def place(self, given: Tensor) -> Tensor:
        """Normalised; raises ``TrainingError`` where pixels are out of range."""
        return self.learner.compute.place_images(given, self.images.source.preprocessing)

    def forward(self, placed: Tensor) -> Tensor:
        """Logits by the whole network."""
        return self.learner.forward(placed)

    def judge(self) -> Predictions:
        """By the whole network."""
        compute = self.learner.loop.compute
        source, rows = self.images.source, self.images.validation
        return evaluate(self.learner.judged, source, rows, compute, self.crops)

    def sample(self) -> Tensor:
        """By the whole network up to its head."""
        rows = self.images.train.head(LOOKED_AT)
        wanted = [(path, sha256, [0]) for path, sha256 in zip(rows["path"], rows["sha256"], strict=True)]
        crops, _ = next(view_batches(Views(self.batches.reader, wanted), LOOKED_AT))
        return head_inputs(self.learner.model, self.place(crops))


class Activations(Inputs):
    """What frozen layers gave, of which the rest of the network computes."""

    def __init__(
        self, learner: Learner, images: Images, batches: TrainingBatches, views: tuple[FrozenViews, FrozenViews]
    ) -> None:
        super().__init__(learner, images, batches)
        self.train, self.validation = views
        self.rest = Rest(learner.model, learner.boundary)
        self.judged = Rest(learner.judged, learner.boundary) if learner.average else self.rest

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch."""
        return self.train.epoch(self.batches, epoch)

    def place(self, given: Tensor) -> Tensor:
        """As it was kept."""
        return self.learner.compute.place(given)

    def forward(self, placed: Tensor) -> Tensor:
        """Logits by the rest of the network."""
        return self.rest(placed)

    def judge(self) -> Predictions:
        """By the rest of the network."""
        source, rows = self.images.source, self.images.validation
        return judge(self.judged, self.validation, source, rows, self.learner.compute)

    def sample(self) -> Tensor:
        """By the rest of the network up to its head."""
        return self.rest.head_inputs(self.place(next(self.train.in_order(LOOKED_AT))))


class Supply:
    """The inputs of a phase: activations of what is frozen, as long as anything is, and pixels otherwise."""

    def __init__(self, images: Images, phase: Phase, loop: LoopConfig, seed: int) -> None:
        self.images, self.phase, self.loop, self.seed = images, phase, loop, seed
        self.batches_per_epoch = len(self._batches(None))
        self._known: dict[str, Inputs] = {}

    def at(self, learner: Learner) -> Inputs:
        """What there is for the stages that are frozen now."""
        if learner.boundary not in self._known:
            self._known = {learner.boundary: self._make(learner)}
        return self._known[learner.boundary]

    def _make(self, learner: Learner) -> Inputs:
        cut = Cut(learner.model, learner.boundary, self.loop, self.images.source)
        if not cut.can_be_kept:
            return self._pixels(learner)
        epochs = self.phase.boundaries(stages(learner.model))[learner.boundary]
        views = training_views(cut, self.images.train, epochs), evaluation_views(cut, self.images.validation)
        batches = self._batches(count_views(self.loop, learner.boundary, epochs))
        return Activations(learner, self.images, batches, views)

    def _pixels(self, learner: Learner) -> Pixels:
        source, cache = self.images.source, self.loop.cache
        transform = training_transform(self.loop.augmentation, source.preprocessing)
        batches = self._batches(None, kept_pixels(source, self.images.train, transform, cache))
        return Pixels(learner, self.images, batches, kept_crops(source, self.images.validation, cache))

    def _batches(self, views: int | None, reader: Reader | None = None) -> TrainingBatches:
        variety = Variety(self.seed, views)
        return TrainingBatches(self.images.source, self.images.train, self.loop, variety, reader)
