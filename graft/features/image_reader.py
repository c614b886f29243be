"""Reads images from files or from a cache of decoded images."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graft.cache.packed import PackedTensors
from graft.cache.tensor_store import TensorStore
from graft.config.training import CacheConfig
from graft.data.images import read_rgb
from graft.models.transforms import ImageTransform


class ImageStore(TensorStore):
    """Images uint8 ``[3, height, width]`` by the SHA-256 of their files, after a transform's deterministic part."""

    def __init__(self, transform: ImageTransform, cache: CacheConfig) -> None:
        super().__init__("images", transform.fixed_name, max_bytes=int(cache.max_gb * 1e9))

    def encode(self, images: list[Tensor]) -> PackedTensors:
        """Pack images for the store."""
        shapes = torch.tensor([image.shape for image in images])
        return PackedTensors(torch.cat([image.flatten() for image in images]), shapes, torch.ones(len(images)))


@dataclass(frozen=True)
class ImageReader:
    """Reads an image and applies the deterministic part of a transform.

    With a ``store``, images are read from there; those that it lacks are decoded from their files. ``holds_all``
    means that it lacks none.
    """

    root: Path
    transform: ImageTransform
    store: ImageStore | None = None
    holds_all: bool = False

    def __call__(self, path: str, sha256: str) -> Tensor:
        """The image as uint8 ``[3, height, width]``; raises ``DataError`` as ``read_rgb`` does."""
        if self.store:
            with suppress(KeyError):  # it did not fit, or was evicted before this process mapped it
                return self.store.get(sha256)[0]
        pixels = read_rgb(self.root / path, sha256, self.transform.min_side_px)
        return self.transform.fixed(torch.from_numpy(np.array(pixels)).permute(2, 0, 1))

    def mark_used(self) -> None:
        """Keep the store's segments from being evicted."""
        if self.store:
            self.store.mark_used()
