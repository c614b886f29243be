"""Freed memory is reused by the next batch, and returned to the system afterwards."""

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
from graft.compute.memory import retain_freed_memory, trim_between
from graft.errors import TrainingError

LARGE = 2**24  # values
LARGE_BYTES = 4 * LARGE
COMPUTE = Compute(torch.device("cpu"), torch.float32, channels_last=True)
PAGES = LARGE_BYTES / os.sysconf("SC_PAGE_SIZE")
# On other processors, torch may use its own allocator.
glibc = platform.libc_ver()[0] == "glibc" and platform.machine() == "x86_64"
pytestmark = pytest.mark.skipif(not glibc, reason="needs glibc's allocator")


@pytest.fixture(autouse=True)
def _trimmed() -> None:
    gc.collect()
    with retain_freed_memory():
        pass


def test_compute_context_reuses_memory_of_the_previous_batch() -> None:
    in_new_process(_reuse_memory_of_the_previous_batch)


def _reuse_memory_of_the_previous_batch() -> None:
    network, images = mobilenet_v3_small().eval(), torch.rand(64, 3, 224, 224)
    faults: dict[bool, list[int]] = {False: [], True: []}
    # Without the context first: the free heap that the context leaves behind would serve later batches, too.
    for retained, counts in faults.items():
        with torch.inference_mode(), COMPUTE.context() if retained else nullcontext():
            for _ in range(8):
                before = page_faults()
                network(images)
                counts.append(page_faults() - before)
    assert sum(faults[True][2:]) < sum(faults[False][2:]) / 10, faults


def test_retain_freed_memory_reuses_a_freed_block() -> None:
    with retain_freed_memory():
        len(b"x" * LARGE_BYTES)  # not torch: its blocks are aligned, which needs slightly more free memory
        before = page_faults()
        len(b"x" * LARGE_BYTES)
        assert page_faults() - before < PAGES / 100


def test_retain_freed_memory_returns_memory_at_its_end() -> None:
    before = resident_bytes()
    with retain_freed_memory():
        torch.ones(LARGE)
        assert resident_bytes() > before + LARGE_BYTES / 2
    assert resident_bytes() < before + LARGE_BYTES / 2


def test_retain_freed_memory_returns_memory_only_at_the_end_of_the_outermost_block() -> None:
    before = resident_bytes()
    with retain_freed_memory():
        with retain_freed_memory():
            torch.ones(LARGE)
        assert resident_bytes() > before + LARGE_BYTES / 2
    assert resident_bytes() < before + LARGE_BYTES / 2


def test_retain_freed_memory_returns_memory_after_an_exception() -> None:
    def fail() -> None:
        with retain_freed_memory():
            torch.ones(LARGE)
            assert resident_bytes() > before + LARGE_BYTES / 2
            raise TrainingError("expected")

    before = resident_bytes()
    with pytest.raises(TrainingError):
        fail()
    gc.collect()
    assert resident_bytes() < before + LARGE_BYTES / 2


@pytest.mark.parametrize(("much", "trimmed"), [(True, True), (False, False)])
def test_trim_between_returns_memory_only_if_much_is_unused(much: bool, trimmed: bool) -> None:
    held = []
    with retain_freed_memory():
        for number in trim_between(range(3)):
            if number == 1:
                torch.ones((3 if much else 1) * LARGE)
            held.append(resident_bytes())
    assert held[1] > held[0] + LARGE_BYTES / 2
    assert (held[2] < held[0] + LARGE_BYTES / 2) == trimmed


def test_forked_process_retains_no_memory() -> None:
    in_new_process(_fork_and_check)


def _fork_and_check() -> None:
    with retain_freed_memory():
        (process := multiprocessing.get_context("fork").Process(target=_check_nothing_retained)).start()
        process.join()
    assert process.exitcode == 0


def _check_nothing_retained() -> None:
    before = resident_bytes()
    len(b"x" * LARGE_BYTES)  # not torch: its threads do not survive a fork
    assert resident_bytes() < before + LARGE_BYTES / 2


def test_trim_between_yields_batches_unchanged() -> None:
    def numbers() -> Iterator[int]:
        yield from range(3)

    assert list(trim_between(numbers())) == [0, 1, 2]


def in_new_process(check: Callable[[], None]) -> None:
    """For checks that depend on everything the process has allocated before."""
    (process := multiprocessing.get_context("spawn").Process(target=check)).start()
    process.join(timeout=120)
    assert process.exitcode == 0


def page_faults() -> int:
    """Minor page faults of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
