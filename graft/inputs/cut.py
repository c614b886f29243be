"""A network cut before a stage, and what its frozen layers give: of an image the same bits in any batch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from graft.cache.activations import ActivationStore
from graft.compute.devices import Compute
from graft.inputs.datasets import ImageSource
from graft.networks.backbones import stage_of, stages
from graft.networks.features import stage_inputs, stage_module
from graft.networks.freezing import fingerprint
from graft.networks.fusing import fused
from graft.networks.transforms import ImageTransform, evaluation_transform, training_transform
from graft.training_config import LoopConfig

AT_ONCE = 16  # always, smaller batches padded: how a value is rounded depends on the size of the batch


@dataclass(frozen=True)
class Cut:
    """A network, the stage before which it is cut, how it is trained, and where its images lie."""

    model: nn.Module
    stage: str
    loop: LoopConfig
    source: ImageSource

    @property
    def can_be_kept(self) -> bool:
        """Whether frozen layers lie before the stage that always give the same."""
        loop = self.loop
        return (
            loop.cache.max_gb > 0 and self.stage not in (stages(self.model)[0], "embedding")
            and loop.batch_norm != "adapt" and loop.augmentation.cutmix_alpha == 0 and not loop.compute.compile
        )  # fmt: skip

    def key_parts(self) -> list[str]:
        """All that decides what reaches the stage, beside the image and how it is computed."""
        before = stages(self.model)[: stages(self.model).index(self.stage)]
        weights = fingerprint(
            (name, value) for name, value in self.model.state_dict().items() if stage_of(name) in before
        )
        modules = [repr(stage_module(self.model, name)) for name in before if name != "embedding"]
        return [type(self.model).__qualname__, self.stage, repr(self.source.preprocessing), weights, *modules]


@dataclass(frozen=True)
class Kind:
    """How views are made of an image, and where what follows is computed."""

    transform: ImageTransform
    compute: Compute

    @classmethod
    def augmented(cls, cut: Cut) -> Kind:
        """As images are trained on."""
        transform = training_transform(cut.loop.augmentation, cut.source.preprocessing)
        return cls(transform, Compute.of(cut.loop.compute))

    @classmethod
    def exact(cls, cut: Cut) -> Kind:
        """As the exported model sees images, in float32."""
        compute = replace(Compute.of(cut.loop.compute), dtype=torch.float32)
        return cls(evaluation_transform(cut.source.preprocessing), compute)

    def store(self, cut: Cut) -> ActivationStore:
        """Where what reaches a stage of such views is kept."""
        config = cut.loop.cache
        key = [*cut.key_parts(), self.transform.name, repr(self.compute)]
        return ActivationStore(*key, precision=config.precision, max_bytes=int(config.max_gb * 1e9))


class FrozenLayers:
    """What reaches some stages of crops: the network is run in eval mode, up to the last of them."""

    def __init__(self, cut: Cut, compute: Compute, stages: list[str]) -> None:
        self.model, self.compute, self.stages = fused(compute.place_model(cut.model)), compute, stages
        self.preprocessing = cut.source.preprocessing

    def __call__(self, crops: Tensor) -> dict[str, Tensor]:
        """Of uint8 ``[at most AT_ONCE, 3, crop, crop]``, float32 ``[as many, ...]`` for each stage, on the CPU."""
        padded = torch.cat([crops, crops[:1].expand(AT_ONCE - len(crops), -1, -1, -1)])
        images = self.compute.place_images(padded, self.preprocessing)
        with self.compute.autocast():
            given = stage_inputs(self.model, images, self.stages)
        return {stage: value[: len(crops)].float().cpu() for stage, value in given.items()}
