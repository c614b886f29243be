"""The loss, and mixing of images and labels for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import v2

from graft.compute.devices import Compute
from graft.config.training import AugmentationConfig, LossConfig, TrainLoopConfig
from graft.features.loaders import TrainingImages

MIN_ERROR = 1e-6  # lower bound of 1 - p: a power of it below 1 has no gradient at 0
Mixup = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class ClassificationLoss:
    """Cross-entropy with label smoothing, in nats; optionally focal and weighted by class.

    With ``focal_gamma``, well-classified images are down-weighted (Lin et al. 2017). With
    ``class_weights``, each image counts by the inverse share of its class.
    """

    def __init__(self, config: LossConfig, class_counts: list[int], device: torch.device) -> None:
        self.config = config
        self.weights: Tensor | None = None
        if config.class_weights:
            counts = torch.tensor(class_counts, dtype=torch.float32, device=device).clamp(min=1)
            self.weights = counts.sum() / (len(class_counts) * counts)

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean over a batch, a scalar.

        ``logits`` is float ``[batch, classes]``; ``targets`` is int64 ``[batch]``, or float ``[batch, classes]`` of
        class probabilities.
        """
        logits = logits.float()
        smoothing = self.config.label_smoothing
        if self.config.focal_gamma == 0:
            return functional.cross_entropy(logits, targets, self.weights, label_smoothing=smoothing)
        classes = logits.shape[1]
        probabilities = targets if targets.ndim == 2 else functional.one_hot(targets, classes).float()
        probabilities = probabilities * (1 - smoothing) + smoothing / classes
        if self.weights is not None:
            probabilities = probabilities * self.weights
        log_probs = logits.log_softmax(dim=1)
        error = (-torch.expm1(log_probs)).clamp(min=MIN_ERROR)  # 1 - p
        return -(probabilities * error**self.config.focal_gamma * log_probs).sum(dim=1).mean()


@dataclass(frozen=True)
class Criterion:
    """The loss, and the mixup that precedes it if the config enables any."""

    loss: ClassificationLoss
    mixup: Mixup | None

    @classmethod
    def from_config(cls, train_config: TrainLoopConfig, images: TrainingImages) -> Criterion:
        """The criterion for these training images."""
        classes = images.dataset.classes
        counts = images.train["label"].value_counts().reindex(classes, fill_value=0)
        loss = ClassificationLoss(train_config.loss, list(counts), Compute.from_config(train_config.compute).device)
        return cls(loss, make_mixup(train_config.augmentation, len(classes)))


def make_mixup(config: AugmentationConfig, classes: int) -> Mixup | None:
    """Mixup (Zhang et al. 2018), CutMix (Yun et al. 2019), one of them at random, or None.

    The function takes normalised images ``[batch, 3, height, width]``, or for mixup alone features ``[batch, ...]``
    (manifold mixup, Verma et al. 2019), with labels int64 ``[batch]``. It returns them mixed, with class
    probabilities float ``[batch, classes]``.
    """
    kinds = ((v2.MixUp, config.mixup_alpha), (v2.CutMix, config.cutmix_alpha))
    transforms = [kind(alpha=alpha, num_classes=classes) for kind, alpha in kinds if alpha > 0]
    if not transforms:
        return None
    mix: Mixup = transforms[0] if len(transforms) == 1 else v2.RandomChoice(transforms)

    def mixup(inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        # torchvision's transforms take maps only: features that are vectors become maps of 1 x 1.
        maps, targets = mix(inputs if inputs.ndim == 4 else inputs.flatten(1)[..., None, None], labels)
        return maps.view(inputs.shape), targets

    return mixup
