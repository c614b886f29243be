"""What a model says of images, as the exported one would."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from graft.compute.devices import Compute
from graft.compute.memory import with_trims
from graft.inputs.cut import Cut
from graft.inputs.datasets import ImageSource, evaluation_batches
from graft.inputs.filling import kept_crops
from graft.inputs.frozen_views import FrozenViews, evaluation_views
from graft.inputs.pixels import Reader
from graft.learning.metrics import Predictions
from graft.networks.features import Rest, averaged, head_inputs
from graft.networks.fusing import fused
from graft.training_config import ComputeConfig

ANYWHERE = ComputeConfig()
JUDGED_AT_ONCE = 64


def evaluate(
    model: nn.Module, source: ImageSource, rows: pd.DataFrame, compute: ComputeConfig = ANYWHERE,
    reader: Reader | None = None,
) -> Predictions:  # fmt: skip
    """What a model says of these images, in float32."""
    here, shape = Compute.of(compute), source.preprocessing
    model = fused(here.place_model(model))
    batches = evaluation_batches(source, rows, reader)
    bar = tqdm(batches, desc="Evaluating", unit="batch", disable=None, leave=False)
    with bar, here.running(), torch.inference_mode():
        logits = (model(here.place_images(pixels, shape)) for pixels, *_ in with_trims(bar))
        return _joined(logits, source, rows)


def evaluate_rest(cut: Cut, rows: pd.DataFrame) -> Predictions:
    """The same, from what the frozen layers before the cut give; from pixels where nothing is frozen."""
    if not cut.can_be_kept:
        return evaluate(
            cut.model, cut.source, rows, cut.loop.compute, kept_crops(cut.source, rows, cut.loop.cache)
        )
    here = Compute.of(cut.loop.compute)
    rest = Rest(here.place_model(cut.model).eval(), cut.stage)
    return judge(rest, evaluation_views(cut, rows), cut.source, rows, here)


def judge(rest: Rest, views: FrozenViews, source: ImageSource, rows: pd.DataFrame, here: Compute) -> Predictions:
    """What a model in eval mode says of images of which is known what reaches it."""
    rest.model.eval()
    with here.running(), torch.inference_mode():
        return _joined((rest(here.place(given)) for given in _batches(views)), source, rows)


def head_features(cut: Cut, rows: pd.DataFrame) -> np.ndarray:
    """What reaches the head of these images, averaged over places: float32 ``[images, features]``."""
    here, shape = Compute.of(cut.loop.compute), cut.source.preprocessing
    with here.running():
        if cut.can_be_kept:
            return torch.cat([averaged(given) for given in _batches(evaluation_views(cut, rows))]).numpy()
        model = fused(here.place_model(cut.model))
        pictures = with_trims(evaluation_batches(cut.source, rows))
        each = (head_inputs(model, here.place_images(pixels, shape)) for pixels, *_ in pictures)
        return torch.cat([some.float().cpu() for some in each]).numpy()


def _batches(views: FrozenViews) -> Iterator[Tensor]:
    return with_trims(views.in_order(JUDGED_AT_ONCE))


def _joined(logits: Iterable[Tensor], source: ImageSource, rows: pd.DataFrame) -> Predictions:
    labels = np.array([source.classes.index(label) for label in rows["label"]])
    each = [some.float().cpu().numpy() for some in logits]
    return Predictions(list(rows["path"]), labels, np.concatenate(each), source.classes)
