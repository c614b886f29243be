"""What a training draws its batches from: pixels, or what frozen layers gave of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from graft.backbones import stages
from graft.datasets import Batch, Images, TrainingBatches, evaluation_batches
from graft.evaluation import evaluate, judge
from graft.features import Rest, head_inputs
from graft.filling import Cut, StoredViews, evaluation_views, training_views
from graft.guards import require_normalised
from graft.history import Phase
from graft.learner import Learner
from graft.metrics import Predictions
from graft.seeds import derive_seed
from graft.training_config import LoopConfig

LOOKED_AT = 16  # images, to see whether features differ


class Pixels:
    """Batches of pixels, of which the whole network computes."""

    def __init__(self, learner: Learner, images: Images, batches: TrainingBatches) -> None:
        self.learner, self.images, self.batches = learner, images, batches
        self.loop = learner.loop

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch."""
        return self.batches.epoch(epoch)

    def place(self, given: Tensor) -> Tensor:
        """A batch on the device, normalised; raises ``TrainingError`` where its pixels are out of range."""
        shape = self.images.source.preprocessing
        images = self.learner.compute.place_images(given, shape)
        require_normalised(images, shape)
        return images

    def forward(self, placed: Tensor) -> Tensor:
        """Logits ``[batch, classes]``."""
        return self.learner.forward(placed)

    def judge(self) -> Predictions:
        """What the model that counts says of the validation images."""
        return evaluate(self.learner.judged, self.images.source, self.images.validation, self.loop.compute)

    def sample(self) -> Tensor:
        """What some images give on their way to the head."""
        pixels, *_ = next(iter(evaluation_batches(self.images.source, self.images.train.head(LOOKED_AT))))
        return head_inputs(self.learner.model, self.place(pixels))


class Activations(Pixels):
    """Batches of what frozen layers gave, of which the rest of the network computes.

    Every epoch takes another of an image's views, beginning with one that the seed chooses.
    """

    def __init__(self, pixels: Pixels, train: StoredViews, validation: StoredViews) -> None:
        learner, images = pixels.learner, pixels.images
        super().__init__(learner, images, pixels.batches)
        self.train, self.validation = train, validation
        self.rest = Rest(learner.model, learner.boundary)
        self.judged = Rest(learner.judged, learner.boundary) if learner.average else self.rest
        self.labels = torch.tensor([images.source.classes.index(label) for label in images.train["label"]])
        self.first = [derive_seed(learner.seed, sha256) % train.count for sha256 in images.train["sha256"]]

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch."""
        for keys in self.batches.keys_of(epoch):
            rows = torch.tensor([row for _, row, _ in keys])
            views = [(row, self.first[row] + epoch + again) for _, row, again in keys]
            yield self.train.read(views), self.labels[rows], rows

    def place(self, given: Tensor) -> Tensor:
        """A batch on the device, in float32."""
        return self.learner.compute.place(given)

    def forward(self, placed: Tensor) -> Tensor:
        """Logits ``[batch, classes]``."""
        return self.rest(placed)

    def judge(self) -> Predictions:
        """What the model that counts says of the validation images."""
        self.learner.judged.eval()
        return judge(
            self.judged, self.validation, self.images.source, self.images.validation, self.learner.compute
        )

    def sample(self) -> Tensor:
        """What some images give on their way to the head."""
        return self.train.read([(row, 0) for row in range(min(LOOKED_AT, len(self.labels)))])


class Supply:
    """The batches of a phase: activations of what is frozen, as long as they can be kept, and pixels otherwise."""

    def __init__(self, images: Images, phase: Phase, loop: LoopConfig, seed: int) -> None:
        self.images, self.phase, self.loop = images, phase, loop
        self.batches = TrainingBatches(images.source, images.train, loop, seed)
        self._known: dict[str, Pixels] = {}

    def at(self, learner: Learner) -> Pixels:
        """What there is for the stages that are frozen now."""
        if learner.boundary not in self._known:
            self._known = {learner.boundary: self._make(learner)}
        return self._known[learner.boundary]

    def _make(self, learner: Learner) -> Pixels:
        pixels = Pixels(learner, self.images, self.batches)
        cut = Cut(learner.model, learner.boundary, self.loop, self.images.source)
        epochs = self.phase.boundaries(stages(learner.model))[learner.boundary]
        train = training_views(cut, self.images.train, epochs)
        validation = train and evaluation_views(cut, self.images.validation)
        return Activations(pixels, train, validation) if train and validation else pixels
