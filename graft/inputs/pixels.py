"""Decoded images: the part of their transform that is the same each time, kept on disk or made anew."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graft.cache.row_store import RowStore
from graft.cache.rows import Rows
from graft.data.images import read_rgb
from graft.networks.transforms import ImageTransform
from graft.training_config import CacheConfig


class PixelStore(RowStore):
    """Images uint8 ``[3, height, width]`` by the SHA-256 of their files, after the fixed part of a transform."""

    def __init__(self, transform: ImageTransform, cache: CacheConfig) -> None:
        super().__init__("pixels", transform.fixed_name, max_bytes=int(cache.max_gb * 1e9))

    def encode(self, images: list[Tensor]) -> Rows:
        """Images as they are kept."""
        shapes = torch.tensor([image.shape for image in images])
        return Rows(torch.cat([image.flatten() for image in images]), shapes, torch.ones(len(images)))


@dataclass(frozen=True)
class Reader:
    """Reads images up to where chance begins: from a store that holds all or some of them, or from files."""

    root: Path
    transform: ImageTransform
    store: PixelStore | None = None
    holds_all: bool = False

    def __call__(self, path: str, sha256: str) -> Tensor:
        """Uint8 ``[3, height, width]``, the same either way; raises ``DataError`` as ``read_rgb``."""
        if self.store:
            with suppress(KeyError):  # it did not fit, or was thrown out before this process came to map it
                return self.store.find(sha256)[0]
        pixels = read_rgb(self.root / path, sha256, self.transform.at_least)
        return self.transform.fixed(torch.from_numpy(np.array(pixels)).permute(2, 0, 1))

    def touch(self) -> None:
        """Say that what is kept is in use."""
        if self.store:
            self.store.touch()
