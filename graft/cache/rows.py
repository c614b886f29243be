"""Rows of tensors, one after another: how a store holds them, and how they are gathered for it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Rows one after another in ``values``, of ``shapes`` int64 ``[count, dimensions]``, each times its scale."""

    values: Tensor
    shapes: Tensor
    scales: Tensor

    def __len__(self) -> int:
        return len(self.scales)

    def row(self, number: int) -> Tensor:
        """A row as it is kept, without its scale."""
        return self.values[self._ends[number] : self._ends[number + 1]].view(*self.shapes[number].tolist())

    def checksum(self, number: int, key: str) -> int:
        """CRC-32 of a row, its scale, its key, and how its bytes are to be read."""
        row = self.row(number)
        named = zlib.crc32(f"{key} {row.dtype} {tuple(row.shape)}".encode())
        return zlib.crc32(_bytes(row), zlib.crc32(_bytes(self.scales[number]), named))

    def require_sense(self, keys: list[str], checks: Tensor) -> None:
        """Raise ``ValueError`` where the parts do not fit together."""
        if not len(keys) == len(self.shapes) == len(self.scales) == len(checks):
            raise ValueError("as many keys as rows are needed")
        if (self.shapes < 0).any() or self.shapes.double().prod(dim=1).sum() != len(self.values):
            raise ValueError("the shapes are not those of the values")

    @cached_property
    def _ends(self) -> list[int]:
        return [0, *self.shapes.prod(dim=1).cumsum(dim=0).tolist()]


class Gathered:
    """Rows with their keys, copied as they come into blocks of memory that are seldom renewed.

    Left where they were, they would outlive the batches that they come from and lie between what those free, so
    that a next batch as large would not fit there.
    """

    def __init__(self) -> None:
        self.keys: list[str] = []
        self._values, self._shapes, self._scales = _Growing(), _Growing(), _Growing()

    @property
    def nbytes(self) -> int:
        """Of all values."""
        return self._values.tensor.nbytes

    def add(self, keys: list[str], rows: Rows) -> None:
        """Copy rows to the end."""
        self.keys += keys
        self._values.add(rows.values)
        self._shapes.add(rows.shapes)
        self._scales.add(rows.scales)

    def rows(self) -> Rows:
        """All of them, at least one, in the order of the keys."""
        return Rows(self._values.tensor, self._shapes.tensor, self._scales.tensor)


class _Growing:
    """A tensor that grows along its first dimension, each time to twice what is needed."""

    def __init__(self) -> None:
        self._room, self._used = torch.empty(0), 0

    @property
    def tensor(self) -> Tensor:
        return self._room[: self._used]

    def add(self, more: Tensor) -> None:
        end = self._used + len(more)
        if end > len(self._room):
            room = more.new_empty(2 * end, *more.shape[1:])
            if self._used:
                room[: self._used] = self.tensor
            self._room = room
        self._room[self._used : end] = more
        self._used = end


def _bytes(values: Tensor) -> memoryview:
    return values.contiguous().view(-1).view(torch.uint8).numpy().data
