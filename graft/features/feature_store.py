"""The disk store of features, in half or single precision."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from graft.cache.packed import PackedTensors
from graft.cache.tensor_store import TensorStore

DTYPES = {"float16": torch.float16, "float32": torch.float32}


class FeatureStore(TensorStore):
    """Features float32 by key, all of one shape.

    In ``float16``, each feature is divided by its own power of two before it is rounded, so that it neither overflows
    nor underflows; ``read`` multiplies it back.
    """

    hint = "raise it, or lower training.cache.views"

    def __init__(self, *key: str, precision: Literal["float16", "float32"], max_bytes: int) -> None:
        super().__init__("features", *key, precision, max_bytes=max_bytes)
        self.precision = precision

    def read(self, keys: list[str]) -> Tensor:
        """Features float32 ``[len(keys), ...]``; raises ``KeyError`` if one is missing."""
        values, scales = zip(*map(self.get, keys), strict=True)
        return _scaled(torch.stack(values), torch.stack(scales))

    def encode(self, features: Tensor) -> PackedTensors:
        """Pack features float32 ``[count, ...]`` in the store's precision."""
        scales = torch.ones(len(features))
        if self.precision == "float16":
            largest = features.abs().flatten(1).amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
            scales = torch.exp2(largest.log2().floor())
            features = features / _broadcast(scales, features)
        shapes = torch.tensor([features.shape[1:]] * len(features))
        return PackedTensors(features.to(DTYPES[self.precision]).flatten(), shapes, scales)

    def round_trip(self, features: Tensor) -> Tensor:
        """Features float32 ``[count, ...]``, rounded as writing and reading them would."""
        packed = self.encode(features)
        return _scaled(packed.values.view(features.shape), packed.scales)


def _scaled(values: Tensor, scales: Tensor) -> Tensor:
    return values.float().mul_(_broadcast(scales, values))


def _broadcast(scales: Tensor, values: Tensor) -> Tensor:
    return scales.view(-1, *[1] * (values.ndim - 1))
