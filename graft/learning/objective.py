"""What training minimises, and how images and labels are mixed for it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import v2

from graft.training_config import AugmentationConfig, LossConfig

SMALLEST = 1e-6  # of 1 - p: its power below 1 has no slope at 0
Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Objective:
    """The loss of logits float ``[batch, classes]`` against labels, in nats.

    Labels are int64 ``[batch]``, or shares float ``[batch, classes]``. With ``focal_gamma``, images that are
    named right with ease count less (Lin et al. 2017); with ``class_weights``, those of small classes more.
    """

    def __init__(self, config: LossConfig, class_counts: list[int], device: torch.device) -> None:
        self.config = config
        self.weights: Tensor | None = None
        if config.class_weights:
            counts = torch.tensor(class_counts, dtype=torch.float32, device=device).clamp(min=1)
            self.weights = counts.sum() / (len(class_counts) * counts)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean over the batch: a scalar."""
        logits = logits.float()
        smoothing = self.config.label_smoothing
        if self.config.focal_gamma == 0:
            return functional.cross_entropy(logits, labels, self.weights, label_smoothing=smoothing)
        classes = logits.shape[1]
        shares = labels if labels.ndim == 2 else functional.one_hot(labels, classes).float()
        shares = shares * (1 - smoothing) + smoothing / classes
        if self.weights is not None:
            shares = shares * self.weights
        said = logits.log_softmax(dim=1)
        missing = (-torch.expm1(said)).clamp(min=SMALLEST)
        return -(shares * missing**self.config.focal_gamma * said).sum(dim=1).mean()


def mixing(config: AugmentationConfig, classes: int) -> Mix | None:
    """Mixup (Zhang et al. 2018), CutMix (Yun et al. 2019), either of them at random, or None.

    It takes normalised images ``[batch, 3, height, width]``, or for mixup alone what layers gave of them ``[batch,
    ...]`` (Verma et al. 2019), with labels int64 ``[batch]``, and returns them mixed, with shares float ``[batch,
    classes]``.
    """
    known = ((v2.MixUp, config.mixup_alpha), (v2.CutMix, config.cutmix_alpha))
    chosen = [kind(alpha=alpha, num_classes=classes) for kind, alpha in known if alpha > 0]
    if not chosen:
        return None
    mix: Mix = chosen[0] if len(chosen) == 1 else v2.RandomChoice(chosen)

    def mixed(given: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        maps, shares = mix(given if given.ndim == 4 else given.flatten(1)[..., None, None], labels)
        return maps.view(given.shape), shares

    return mixed
