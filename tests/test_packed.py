"""Packed tensors, and the buffer that collects them."""

from __future__ import annotations

import weakref

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graft.cache.packed import PackedBuffer, PackedTensors

SHAPES = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 5)), min_size=1, max_size=4)


def random_packed(shapes: list[tuple[int, int]], seed: int) -> PackedTensors:
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(sum(height * width for height, width in shapes), generator=generator)
    return PackedTensors(values.half(), torch.tensor(shapes), torch.rand(len(shapes), generator=generator))


@settings(deadline=None)
@given(st.lists(SHAPES, min_size=1, max_size=9))
def test_packed_buffer_returns_tensors_in_order_of_keys(batches: list[list[tuple[int, int]]]) -> None:
    buffer = PackedBuffer()
    expected: dict[str, tuple[Tensor, Tensor]] = {}
    for number, shapes in enumerate(batches):
        batch = random_packed(shapes, number)
        keys = [f"{number}/{index}" for index in range(len(batch))]
        expected |= {key: (batch.tensor(index), batch.scales[index]) for index, key in enumerate(keys)}
        buffer.append(keys, batch)
    packed = buffer.packed()
    assert buffer.keys == list(expected)
    assert buffer.nbytes == packed.values.nbytes == sum(tensor.nbytes for tensor, _ in expected.values())
    for index, (tensor, scale) in enumerate(expected.values()):
        assert packed.values.dtype == tensor.dtype
        assert torch.equal(packed.tensor(index), tensor)
        assert packed.scales[index] == scale


def test_packed_buffer_holds_no_reference_to_appended_tensors() -> None:
    buffer, packed = PackedBuffer(), random_packed([(2, 3)], 0)
    references = [weakref.ref(tensor) for tensor in (packed.values, packed.shapes, packed.scales)]
    buffer.append(["a"], packed)
    assert buffer.packed().values.data_ptr() != packed.values.data_ptr()
    del packed
    assert [reference() for reference in references] == [None] * 3
