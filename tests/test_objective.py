"""The loss is what its options say, and mixing keeps shares whole."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from graft.learning.objective import Objective, mixing
from graft.training_config import AugmentationConfig, LossConfig

CPU = torch.device("cpu")
LOGITS = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0])


def loss(**values: float) -> float:
    return float(Objective(LossConfig.model_validate(values), [4, 2, 2], CPU)(LOGITS, LABELS))


def test_without_options_it_is_cross_entropy() -> None:
    assert loss(label_smoothing=0.0) == pytest.approx(functional.cross_entropy(LOGITS, LABELS).item())
    smooth = functional.cross_entropy(LOGITS, LABELS, label_smoothing=0.1).item()
    assert loss(label_smoothing=0.1) == pytest.approx(smooth)


def test_the_focal_loss_tends_to_cross_entropy_and_counts_what_is_easy_less() -> None:
    assert loss(label_smoothing=0.1, focal_gamma=1e-6) == pytest.approx(loss(label_smoothing=0.1), abs=1e-4)
    objective = Objective(LossConfig(label_smoothing=0.0, focal_gamma=2.0), [1, 1], CPU)
    easy, hard = (objective(torch.tensor([[value, 0.0]]), torch.tensor([0])).item() for value in (4.0, -1.0))
    plain = [functional.cross_entropy(torch.tensor([[v, 0.0]]), torch.tensor([0])).item() for v in (4.0, -1.0)]
    assert easy / plain[0] < 0.01 < hard / plain[1]


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.0, 5.0])
def test_an_image_that_is_named_right_for_sure_has_a_gradient(gamma: float) -> None:
    logits = torch.tensor([[40.0, 0.0]], requires_grad=True)
    Objective(LossConfig(focal_gamma=gamma), [1, 1], CPU)(logits, torch.tensor([0])).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_class_weights_give_every_class_the_same_say() -> None:
    objective = Objective(LossConfig(label_smoothing=0.0, class_weights=True), [4, 2, 2], CPU)
    assert objective.weights is not None
    assert (objective.weights * torch.tensor([4.0, 2, 2])).tolist() == pytest.approx([8 / 3] * 3)
    per_class = [functional.cross_entropy(LOGITS[k == LABELS], LABELS[k == LABELS]).item() for k in range(3)]
    assert objective(LOGITS, LABELS).item() == pytest.approx(sum(per_class) / 3, rel=1e-5)


@pytest.mark.parametrize("alphas", [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_mixed_labels_are_shares_of_the_labels_that_were_mixed(alphas: tuple[float, float]) -> None:
    mix = mixing(AugmentationConfig(mixup_alpha=alphas[0], cutmix_alpha=alphas[1]), 3)
    assert mix is not None
    images, shares = mix(torch.rand(8, 3, 16, 16), LABELS)
    assert images.shape == (8, 3, 16, 16)
    assert shares.sum(dim=1).tolist() == pytest.approx([1.0] * 8)
    assert (shares[torch.arange(8), LABELS] > 0).all()
    assert Objective(LossConfig(focal_gamma=1.0), [4, 2, 2], CPU)(LOGITS, shares).isfinite()


def test_nothing_is_mixed_unless_it_is_asked_for() -> None:
    assert mixing(AugmentationConfig(), 3) is None
