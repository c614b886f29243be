"""Rows are gathered as they come, and nothing of a batch stays behind."""

from __future__ import annotations

import weakref

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graft.cache.rows import Gathered, Rows

SHAPES = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 5)), min_size=1, max_size=4)


def rows_of(shapes: list[tuple[int, int]], seed: int) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(sum(height * width for height, width in shapes), generator=generator)
    return Rows(values.half(), torch.tensor(shapes), torch.rand(len(shapes), generator=generator))


@settings(deadline=None)
@given(st.lists(SHAPES, min_size=1, max_size=9))
def test_rows_come_back_in_order_with_their_keys(batches: list[list[tuple[int, int]]]) -> None:
    gathered = Gathered()
    expected: dict[str, tuple[Tensor, Tensor]] = {}
    for number, shapes in enumerate(batches):
        rows = rows_of(shapes, number)
        keys = [f"{number}/{row}" for row in range(len(rows))]
        expected |= {key: (rows.row(row), rows.scales[row]) for row, key in enumerate(keys)}
        gathered.add(keys, rows)
    rows = gathered.rows()
    assert gathered.keys == list(expected)
    assert gathered.nbytes == rows.values.nbytes == sum(row.nbytes for row, _ in expected.values())
    for number, (row, scale) in enumerate(expected.values()):
        assert rows.values.dtype == row.dtype
        assert torch.equal(rows.row(number), row)
        assert rows.scales[number] == scale


def test_nothing_of_a_batch_is_held() -> None:
    gathered, rows = Gathered(), rows_of([(2, 3)], 0)
    parts = [weakref.ref(part) for part in (rows.values, rows.shapes, rows.scales)]
    gathered.add(["a"], rows)
    assert gathered.rows().values.data_ptr() != rows.values.data_ptr()
    del rows
    assert [part() for part in parts] == [None] * 3
