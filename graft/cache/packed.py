"""Tensors of different shapes packed one after another into one buffer."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class PackedTensors:
    """``count`` tensors of one dtype, flattened and concatenated.

    ``values`` is the flat buffer, ``shapes`` int64 ``[count, dimensions]``, ``scales`` float32 ``[count]``: the
    factor by which a reader multiplies each tensor.
    """

    values: Tensor
    shapes: Tensor
    scales: Tensor

    def __len__(self) -> int:
        return len(self.scales)

    def tensor(self, index: int) -> Tensor:
        """One tensor in its own shape, a view of the buffer, not yet multiplied by its scale."""
        return self.values[self._offsets[index] : self._offsets[index + 1]].view(*self.shapes[index].tolist())

    def checksum(self, index: int, key: str) -> int:
        """CRC-32 of a tensor's bytes, scale, key, dtype and shape."""
        tensor = self.tensor(index)
        header = zlib.crc32(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        return zlib.crc32(_as_bytes(tensor), zlib.crc32(_as_bytes(self.scales[index]), header))

    def check_consistent(self, keys: list[str], checksums: Tensor) -> None:
        """Raise ``ValueError`` if keys, shapes, scales, checksums and values do not belong together."""
        if not len(keys) == len(self.shapes) == len(self.scales) == len(checksums):
            raise ValueError("the numbers of keys, shapes, scales and checksums differ")
        if (self.shapes < 0).any() or self.shapes.double().prod(dim=1).sum() != len(self.values):
            raise ValueError("the shapes do not add up to the number of values")

    @cached_property
    def _offsets(self) -> list[int]:
        return [0, *self.shapes.prod(dim=1).cumsum(dim=0).tolist()]


class PackedBuffer:
    """Collects packed tensors and their keys until they are written.

    Tensors are copied into a few large blocks. If each batch's result stayed where it was allocated, it would
    outlive its batch and fragment the memory that the batch frees, so that the next batch of the same size
    would not fit there.
    """

    def __init__(self) -> None:
        self.keys: list[str] = []
        self._values, self._shapes, self._scales = _GrowingTensor(), _GrowingTensor(), _GrowingTensor()

    @property
    def nbytes(self) -> int:
        """Size of the collected values in bytes."""
        return self._values.tensor.nbytes

    def append(self, keys: list[str], packed: PackedTensors) -> None:
        """Copy tensors to the end of the buffer."""
        self.keys += keys
        self._values.append(packed.values)
        self._shapes.append(packed.shapes)
        self._scales.append(packed.scales)

    def packed(self) -> PackedTensors:
        """All collected tensors in the order of ``keys``; at least one must have been appended."""
        return PackedTensors(self._values.tensor, self._shapes.tensor, self._scales.tensor)


class _GrowingTensor:
    """A tensor that grows along dimension 0; capacity doubles, so that appending is amortised O(1)."""

    def __init__(self) -> None:
        self._storage, self._length = torch.empty(0), 0

    @property
    def tensor(self) -> Tensor:
        return self._storage[: self._length]

    def append(self, tail: Tensor) -> None:
        end = self._length + len(tail)
        if end > len(self._storage):
            storage = tail.new_empty(2 * end, *tail.shape[1:])
            if self._length:
                storage[: self._length] = self.tensor
            self._storage = storage
        self._storage[self._length : end] = tail
        self._length = end


def _as_bytes(values: Tensor) -> memoryview:
    return values.contiguous().view(-1).view(torch.uint8).numpy().data
