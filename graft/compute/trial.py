"""Which layout, precision and number of threads are fastest here: tried for a second or two, then remembered."""

from __future__ import annotations

import copy
import logging
import os
import platform
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from graft.cache.files import cache_place, write_whole
from graft.compute.devices import Compute
from graft.compute.memory import kept_memory
from graft.training_config import ComputeConfig

logger = logging.getLogger(__name__)
FEWEST, MOST = 2, 16  # images at once
PASS_S = 0.15  # what a pass should take
ROUNDS, ROUNDS_S = 3, 1.0  # beside a first one, which is not counted; fewer where they take longer
WORTH_WHILE = 0.85  # of the time of what is known to be good: less is noise, and would not be the same twice


def fastest(config: ComputeConfig, network: nn.Module) -> ComputeConfig:
    """The config with a value in place of each ``auto``, which is tried on forward passes.

    What was found for a network on a machine is kept in the cache, so that the next run computes in the same way.
    """
    compute = Compute.of(config)
    here = {
        "device": compute.device.type, "precision": str(compute.dtype).removeprefix("torch."),
        "channels_last": compute.channels_last, "threads": compute.threads or torch.get_num_threads(),
    }  # fmt: skip
    usual = config.model_copy(update=here)
    others = list(_others(config, usual))
    if not others:
        return usual
    place = cache_place(
        "compute", config.model_dump_json(), usual.model_dump_json(), repr(network), *_machine(usual),
        str(WORTH_WHILE),
    )  # fmt: skip
    if known := _remembered(place):
        return known
    with kept_memory():
        found, words = _tried(usual, others, network)
    logger.info("Computes in %s. training.compute can say otherwise.", words)
    _remember(place, found)
    return found


def in_words(config: ComputeConfig) -> str:
    """How is computed, in a few words."""
    layout = "channels last" if config.channels_last else "channels first"
    return f"{config.precision} on {config.device}, {layout}, {config.threads} threads"


def _others(config: ComputeConfig, usual: ComputeConfig) -> Iterator[Mapping[str, object]]:
    """What else can be tried, one setting at a time."""
    if config.channels_last == "auto":
        yield {"channels_last": False}
    if config.precision == "auto" and usual.device != "mps":
        yield {"precision": "bfloat16" if usual.precision == "float32" else "float32"}
    cores = os.cpu_count() or 1
    if config.threads == "auto" and usual.device == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        yield from ({"threads": count} for count in (cores, cores // 2) if count > 1 and count != usual.threads)


def _machine(usual: ComputeConfig) -> list[str]:
    """What else decides how fast it is."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else [platform.processor()]
    processor = next((line for line in lines if line.startswith("model name")), platform.machine())
    device = torch.cuda.get_device_name() if usual.device == "cuda" else processor
    return [device, torch.backends.cpu.get_cpu_capability(), str(os.cpu_count()), torch.__version__]


def _tried(
    usual: ComputeConfig, others: list[Mapping[str, object]], network: nn.Module
) -> tuple[ComputeConfig, str]:
    begun = time.perf_counter()
    images = torch.rand(MOST, 3, *[int(network.image_size)] * 2, generator=torch.Generator())  # type: ignore[arg-type]
    first = _Pass(usual, network, images[:FEWEST])
    first.seconds()  # makes ready what is slow once
    one = first.seconds() / FEWEST
    images = images[: max(FEWEST, min(MOST, round(PASS_S / one)))]
    best, total = usual, 1.0
    for other in others:
        challenger = best.model_copy(update=other)
        ratio = _ratio(challenger, best, network, images)
        if ratio < WORTH_WHILE:
            best, total = challenger, total * ratio
    words = f"{in_words(best)}: {total:.2f} of the time of {in_words(usual)}" if best != usual else in_words(best)
    return best, f"{words} (tried for {time.perf_counter() - begun:.1f} s)"


def _ratio(challenger: ComputeConfig, best: ComputeConfig, network: nn.Module, images: Tensor) -> float:
    """The time that one takes to that of the other, each timed in turn."""
    passes = [_Pass(config, network, images) for config in (challenger, best)]
    for one in passes:
        one.seconds()  # the first makes what the others find ready
    times: list[list[float]] = []
    while not times or (len(times) < ROUNDS and sum(map(sum, times)) < ROUNDS_S):
        times.append([one.seconds() for one in passes])
    return min(each[0] for each in times) / min(each[1] for each in times)


class _Pass:
    """A forward pass through a copy of a network, in one way of computing."""

    def __init__(self, config: ComputeConfig, network: nn.Module, images: Tensor) -> None:
        self.compute = Compute.of(config)
        self.network = self.compute.place_model(copy.deepcopy(network).eval())
        self.images = self.compute.place(images)

    def seconds(self) -> float:
        begun = time.perf_counter()
        with self.compute.running(), self.compute.autocast(), torch.inference_mode():
            self.network(self.images)
            if self.compute.device.type != "cpu":
                torch.accelerator.synchronize()
        return time.perf_counter() - begun


def _remembered(place: Path) -> ComputeConfig | None:
    try:
        return ComputeConfig.model_validate_json(place.read_bytes())
    except (OSError, ValidationError) as error:
        logger.debug("%s: %s", place, error)
        return None


def _remember(place: Path, found: ComputeConfig) -> None:
    try:
        write_whole(place, found.model_dump_json().encode())
    except OSError as error:
        logger.warning(
            "How this machine computes fastest could not be kept (%s); the next run tries again.", error
        )
