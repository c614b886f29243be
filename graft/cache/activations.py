"""Activations as they are kept on disk: what frozen layers gave of images, in half precision or whole."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from graft.cache.row_store import RowStore
from graft.cache.rows import Rows

DTYPES = {"float16": torch.float16, "float32": torch.float32}


class ActivationStore(RowStore):
    """Rows float32 by key, all of one shape; ``parts`` are all that decides what they hold.

    In ``float16``, each row is kept as multiples of a power of two of its own, so that it neither overflows nor
    vanishes.
    """

    advice = "raise it, or lower training.cache.views"

    def __init__(self, *parts: str, precision: Literal["float16", "float32"], max_bytes: int) -> None:
        super().__init__("activations", *parts, precision, max_bytes=max_bytes)
        self.precision = precision

    def read(self, keys: list[str]) -> Tensor:
        """The rows of these keys ``[len(keys), ...]``; raises ``KeyError`` where one is not there."""
        rows, scales = zip(*map(self.find, keys), strict=True)
        return _scaled(torch.stack(rows), torch.stack(scales))

    def encode(self, values: Tensor) -> Rows:
        """Values float32 ``[count, ...]`` as they are kept."""
        scales = torch.ones(len(values))
        if self.precision == "float16":
            largest = values.abs().flatten(1).amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
            scales = torch.exp2(largest.log2().floor())
            values = values / _beside(scales, values)
        shapes = torch.tensor([values.shape[1:]] * len(values))
        return Rows(values.to(DTYPES[self.precision]).flatten(), shapes, scales)

    def rounded(self, values: Tensor) -> Tensor:
        """Values float32 ``[count, ...]`` as they would be read again."""
        rows = self.encode(values)
        return _scaled(rows.values.view(values.shape), rows.scales)


def _scaled(values: Tensor, scales: Tensor) -> Tensor:
    return values.float().mul_(_beside(scales, values))


def _beside(scales: Tensor, values: Tensor) -> Tensor:
    return scales.view(-1, *[1] * (values.ndim - 1))
