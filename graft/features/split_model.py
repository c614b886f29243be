"""A model split before a stage: frozen layers before it, the trained tail from it on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from graft.compute.devices import Compute
from graft.config.training import TrainLoopConfig
from graft.features.feature_store import FeatureStore
from graft.features.loaders import DatasetInfo
from graft.features.model_tail import intermediate_features, stage_module
from graft.models.freezing import tensor_digest
from graft.models.fusion import fuse_conv_bn
from graft.models.stages import stage_names, stage_of
from graft.models.transforms import ImageTransform, evaluation_transform, training_transform

# Every batch has this size, a smaller one is padded: rounding depends on the batch size, and a feature must have
# the same bits whatever batch it was computed in.
FEATURE_BATCH_SIZE = 16


@dataclass(frozen=True)
class SplitModel:
    """A model, the first stage of its tail, the settings it is trained with, and the images it is trained on."""

    model: nn.Module
    split_stage: str
    train_config: TrainLoopConfig
    dataset: DatasetInfo

    @property
    def is_cacheable(self) -> bool:
        """Whether there are frozen layers before the stage, and they give the same output in every epoch."""
        config = self.train_config
        return (
            config.cache.max_gb > 0
            and self.split_stage not in (stage_names(self.model)[0], "embedding")
            and config.batch_norm != "adapt"  # batch norms of frozen stages keep learning
            and config.augmentation.cutmix_alpha == 0  # CutMix pastes pixels, not features
            and not config.compute.compile
        )

    @property
    def trains_on_crops(self) -> bool:
        """Whether it is trained on the centre crops of evaluation: a head alone, unless augmentation is strong."""
        config = self.train_config
        return (
            self.split_stage == "head" and config.augmentation.strength == "light" and config.cache.head_views == "auto"
        )

    def cache_key(self) -> list[str]:
        """Everything in the model that determines a feature; the transform and the compute come on top."""
        names = stage_names(self.model)
        frozen = names[: names.index(self.split_stage)]
        weights = tensor_digest(
            (name, value) for name, value in self.model.state_dict().items() if stage_of(name) in frozen
        )
        modules = [repr(stage_module(self.model, name)) for name in frozen if name != "embedding"]
        architecture = type(self.model).__qualname__
        return [architecture, self.split_stage, repr(self.dataset.preprocessing), weights, *modules]


@dataclass(frozen=True)
class FeatureSpec:
    """How a view is made from an image, and how the frozen layers are computed on it."""

    transform: ImageTransform
    compute: Compute

    @classmethod
    def for_training(cls, split_model: SplitModel) -> FeatureSpec:
        """Augmented views, or what ``for_evaluation`` returns if the model ``trains_on_crops``."""
        return cls.for_evaluation(split_model) if split_model.trains_on_crops else cls.augmented(split_model)

    @classmethod
    def augmented(cls, split_model: SplitModel) -> FeatureSpec:
        """Augmented views, in the precision of training."""
        config = split_model.train_config
        transform = training_transform(config.augmentation, split_model.dataset.preprocessing)
        return cls(transform, Compute.from_config(config.compute))

    @classmethod
    def for_evaluation(cls, split_model: SplitModel) -> FeatureSpec:
        """The centre crop in float32, as the exported model computes."""
        compute = replace(Compute.from_config(split_model.train_config.compute), dtype=torch.float32)
        return cls(evaluation_transform(split_model.dataset.preprocessing), compute)

    def store(self, split_model: SplitModel) -> FeatureStore:
        """The store of these features."""
        cache = split_model.train_config.cache
        key = [*split_model.cache_key(), self.transform.name, repr(self.compute)]
        return FeatureStore(*key, precision=cache.precision, max_bytes=int(cache.max_gb * 1e9))


class FrozenLayers:
    """Runs a model's frozen layers in eval mode, and returns the input of each stage in ``stages``."""

    def __init__(self, split_model: SplitModel, compute: Compute, stages: list[str]) -> None:
        self.model = fuse_conv_bn(compute.model_to_device(split_model.model))
        self.compute, self.stages = compute, stages
        self.preprocessing = split_model.dataset.preprocessing

    def __call__(self, views: Tensor) -> dict[str, Tensor]:
        """Features float32 ``[n, ...]`` on the CPU by stage, for uint8 ``[n, 3, crop, crop]`` with n at most 16."""
        padding = views[:1].expand(FEATURE_BATCH_SIZE - len(views), -1, -1, -1)
        images = self.compute.images_to_device(torch.cat([views, padding]), self.preprocessing)
        with self.compute.autocast():
            features = intermediate_features(self.model, images, self.stages)
        return {stage: value[: len(views)].float().cpu() for stage, value in features.items()}
