"""Predictions of a model on labelled images, computed as the exported model would: in float32."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from graft.compute.devices import Compute
from graft.compute.memory import trim_between
from graft.config.training import ComputeConfig
from graft.evaluation.metrics import Predictions
from graft.features.feature_cache import cache_evaluation_features
from graft.features.image_cache import cached_eval_reader
from graft.features.image_reader import ImageReader
from graft.features.loaders import DatasetInfo, evaluation_batches
from graft.features.model_tail import ModelTail, pool_features, pre_logits
from graft.features.sources import FeatureSource
from graft.features.split_model import SplitModel
from graft.models.fusion import fuse_conv_bn

DEFAULT_COMPUTE = ComputeConfig()
EVAL_BATCH_SIZE = 64


def evaluate(
    model: nn.Module,
    dataset: DatasetInfo,
    records: pd.DataFrame,
    *,
    compute: ComputeConfig = DEFAULT_COMPUTE,
    reader: ImageReader | None = None,
) -> Predictions:
    """Predictions of a whole model on the images of ``records`` (``path, label, sha256``)."""
    device = Compute.from_config(compute)
    model = fuse_conv_bn(device.model_to_device(model))
    batches = evaluation_batches(dataset, records, reader)
    progress = tqdm(batches, desc="Evaluating", unit="batch", disable=None, leave=False)
    with progress, device.context(), torch.inference_mode():
        images = (device.images_to_device(pixels, dataset.preprocessing) for pixels, *_ in trim_between(progress))
        return _predictions(map(model, images), dataset, records)


def evaluate_split_model(split_model: SplitModel, records: pd.DataFrame) -> Predictions:
    """Predictions of a model from cached features, or from images if no layer is frozen.

    Fills the feature cache with what it lacks.
    """
    config, dataset = split_model.train_config, split_model.dataset
    if not split_model.is_cacheable:
        reader = cached_eval_reader(dataset, records, config.cache)
        return evaluate(split_model.model, dataset, records, compute=config.compute, reader=reader)
    compute = Compute.from_config(config.compute)
    tail = ModelTail(compute.model_to_device(split_model.model).eval(), split_model.split_stage)
    return evaluate_features(tail, cache_evaluation_features(split_model, records), dataset, records, compute)


def evaluate_features(
    tail: ModelTail, features: FeatureSource, dataset: DatasetInfo, records: pd.DataFrame, compute: Compute
) -> Predictions:
    """Predictions of a model's tail on features in the order of ``records``."""
    tail.model.eval()
    with compute.context(), torch.inference_mode():
        logits = (tail(compute.features_to_device(batch)) for batch in _batches(features))
        return _predictions(logits, dataset, records)


def extract_features(split_model: SplitModel, records: pd.DataFrame) -> np.ndarray:
    """Inputs of the head, pooled to float32 ``[images, features]``; fills the feature cache with what it lacks."""
    compute = Compute.from_config(split_model.train_config.compute)
    with compute.context():
        if split_model.is_cacheable:
            features = cache_evaluation_features(split_model, records)
            return torch.cat([pool_features(batch) for batch in _batches(features)]).numpy()
        model = fuse_conv_bn(compute.model_to_device(split_model.model))
        batches = trim_between(evaluation_batches(split_model.dataset, records))
        preprocessing = split_model.dataset.preprocessing
        inputs = (compute.images_to_device(pixels, preprocessing) for pixels, *_ in batches)
        return torch.cat([pre_logits(model, images).float().cpu() for images in inputs]).numpy()


def _batches(features: FeatureSource) -> Iterator[Tensor]:
    return trim_between(features.in_order(EVAL_BATCH_SIZE))


def _predictions(logits: Iterable[Tensor], dataset: DatasetInfo, records: pd.DataFrame) -> Predictions:
    batches = [batch.float().cpu().numpy() for batch in logits]
    return label_predictions(np.concatenate(batches), dataset, records)


def label_predictions(logits: np.ndarray, dataset: DatasetInfo, records: pd.DataFrame) -> Predictions:
    """Logits float32 ``[len(records), classes]`` in the order of ``records``, with paths and true labels."""
    labels = dataset.class_indices(records["label"])
    return Predictions(list(records["path"]), labels, logits, dataset.classes)
