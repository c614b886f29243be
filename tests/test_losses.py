"""Losses and mixup."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from graft.config.training import AugmentationConfig, LossConfig
from graft.training.losses import ClassificationLoss, make_mixup

CPU = torch.device("cpu")
LOGITS = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0])


def loss(**values: float) -> float:
    return float(ClassificationLoss(LossConfig.model_validate(values), [4, 2, 2], CPU)(LOGITS, LABELS))


def test_loss_without_options_is_cross_entropy() -> None:
    assert loss(label_smoothing=0.0) == pytest.approx(functional.cross_entropy(LOGITS, LABELS).item())
    smoothed = functional.cross_entropy(LOGITS, LABELS, label_smoothing=0.1).item()
    assert loss(label_smoothing=0.1) == pytest.approx(smoothed)


def test_focal_loss_tends_to_cross_entropy_and_downweights_easy_images() -> None:
    assert loss(label_smoothing=0.1, focal_gamma=1e-6) == pytest.approx(loss(label_smoothing=0.1), abs=1e-4)
    focal_loss = ClassificationLoss(LossConfig(label_smoothing=0.0, focal_gamma=2.0), [1, 1], CPU)
    label = torch.tensor([0])
    easy, hard = torch.tensor([[4.0, 0.0]]), torch.tensor([[-1.0, 0.0]])
    easy_ratio, hard_ratio = (
        focal_loss(logits, label).item() / functional.cross_entropy(logits, label).item() for logits in (easy, hard)
    )
    assert easy_ratio < 0.01 < hard_ratio


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.0, 5.0])
def test_focal_loss_has_a_finite_gradient_at_a_probability_of_1(gamma: float) -> None:
    logits = torch.tensor([[40.0, 0.0]], requires_grad=True)
    ClassificationLoss(LossConfig(focal_gamma=gamma), [1, 1], CPU)(logits, torch.tensor([0])).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_class_weights_weigh_every_class_equally() -> None:
    weighted_loss = ClassificationLoss(LossConfig(label_smoothing=0.0, class_weights=True), [4, 2, 2], CPU)
    assert weighted_loss.weights is not None
    assert (weighted_loss.weights * torch.tensor([4.0, 2, 2])).tolist() == pytest.approx([8 / 3] * 3)
    per_class = [functional.cross_entropy(LOGITS[k == LABELS], LABELS[k == LABELS]).item() for k in range(3)]
    assert weighted_loss(LOGITS, LABELS).item() == pytest.approx(sum(per_class) / 3, rel=1e-5)


@pytest.mark.parametrize("alphas", [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_mixup_returns_class_probabilities(alphas: tuple[float, float]) -> None:
    mixup = make_mixup(AugmentationConfig(mixup_alpha=alphas[0], cutmix_alpha=alphas[1]), 3)
    assert mixup is not None
    images, probabilities = mixup(torch.rand(8, 3, 16, 16), LABELS)
    assert images.shape == (8, 3, 16, 16)
    assert probabilities.sum(dim=1).tolist() == pytest.approx([1.0] * 8)
    assert (probabilities[torch.arange(8), LABELS] > 0).all()
    assert ClassificationLoss(LossConfig(focal_gamma=1.0), [4, 2, 2], CPU)(LOGITS, probabilities).isfinite()


def test_mixup_is_off_by_default() -> None:
    assert make_mixup(AugmentationConfig(), 3) is None
