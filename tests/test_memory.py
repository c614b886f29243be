"""Memory that a batch frees is there for the next one, and given back afterwards."""

from __future__ import annotations

import gc
import multiprocessing
import os
import platform
import resource
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torchvision.models import mobilenet_v3_small

from graft.compute.devices import Compute
from graft.compute.memory import kept_memory, with_trims
from graft.errors import TrainingError

LARGE = 2**24  # values
LARGE_BYTES = 4 * LARGE
COMPUTE = Compute(torch.device("cpu"), torch.float32, channels_last=True)
PAGES = LARGE_BYTES / os.sysconf("SC_PAGE_SIZE")
glibc = platform.libc_ver()[0] == "glibc" and platform.machine() == "x86_64"  # torch has its own allocator on some
pytestmark = pytest.mark.skipif(not glibc, reason="another library allocates here")


@pytest.fixture(autouse=True)
def _nothing_kept() -> None:
    gc.collect()
    with kept_memory():
        pass


def test_a_batch_takes_the_memory_of_the_one_before() -> None:
    in_a_fresh_process(_take_the_memory_of_the_batch_before)


def _take_the_memory_of_the_batch_before() -> None:
    network, images = mobilenet_v3_small().eval(), torch.rand(64, 3, 224, 224)
    faults: dict[bool, list[int]] = {True: [], False: []}
    for kept, each in faults.items():
        with torch.inference_mode(), COMPUTE.running() if kept else nullcontext():
            for _ in range(8):
                before = page_faults()
                network(images)
                each.append(page_faults() - before)
    assert sum(faults[True][2:]) < sum(faults[False][2:]) / 10, faults


def test_what_is_freed_is_taken_again() -> None:
    with kept_memory():
        len(b"x" * LARGE_BYTES)  # not torch: it asks for aligned memory, for which a little more has to be free
        before = page_faults()
        len(b"x" * LARGE_BYTES)
        assert page_faults() - before < PAGES / 100


def test_what_was_kept_is_given_back() -> None:
    before = resident_bytes()
    with kept_memory():
        torch.ones(LARGE)
        assert resident_bytes() > before + LARGE_BYTES / 2
    assert resident_bytes() < before + LARGE_BYTES / 2


def test_what_is_kept_inside_ends_with_the_outermost() -> None:
    before = resident_bytes()
    with kept_memory():
        with kept_memory():
            torch.ones(LARGE)
        assert resident_bytes() > before + LARGE_BYTES / 2
    assert resident_bytes() < before + LARGE_BYTES / 2


def test_what_was_kept_is_given_back_after_a_failure() -> None:
    def fail() -> None:
        with kept_memory():
            torch.ones(LARGE)
            assert resident_bytes() > before + LARGE_BYTES / 2
            raise TrainingError("too bad")

    before = resident_bytes()
    with pytest.raises(TrainingError):
        fail()
    gc.collect()
    assert resident_bytes() < before + LARGE_BYTES / 2


@pytest.mark.parametrize(("much", "given_back"), [(True, True), (False, False)])
def test_what_lies_unused_is_given_back_where_it_is_much(much: bool, given_back: bool) -> None:
    held = []
    with kept_memory():
        for number in with_trims(range(3)):
            if number == 1:
                torch.ones((3 if much else 1) * LARGE)
            held.append(resident_bytes())
    assert held[1] > held[0] + LARGE_BYTES / 2
    assert (held[2] < held[0] + LARGE_BYTES / 2) == given_back


def test_a_forked_process_keeps_nothing() -> None:
    in_a_fresh_process(_fork_a_process_that_keeps_nothing)


def _fork_a_process_that_keeps_nothing() -> None:
    with kept_memory():
        (process := multiprocessing.get_context("fork").Process(target=_keep_nothing)).start()
        process.join()
    assert process.exitcode == 0


def _keep_nothing() -> None:
    before = resident_bytes()
    len(b"x" * LARGE_BYTES)  # not torch: its threads do not outlive a fork
    assert resident_bytes() < before + LARGE_BYTES / 2


def test_batches_come_as_they_are() -> None:
    def numbers() -> Iterator[int]:
        yield from range(3)

    assert list(with_trims(numbers())) == [0, 1, 2]


def in_a_fresh_process(check: Callable[[], None]) -> None:
    """For what depends on all that a process has freed before."""
    (process := multiprocessing.get_context("spawn").Process(target=check)).start()
    process.join(timeout=120)
    assert process.exitcode == 0


def page_faults() -> int:
    """Pages that this process has asked for so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def resident_bytes() -> int:
    """What this process holds of memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
