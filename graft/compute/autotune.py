"""Benchmarks memory format, precision and number of threads, and remembers the fastest in the cache."""

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

from graft.cache.files import cache_path, write_atomically
from graft.compute.devices import Compute
from graft.compute.memory import retain_freed_memory
from graft.config.training import ComputeConfig
from graft.places import describe_write_error

logger = logging.getLogger(__name__)
MIN_BATCH, MAX_BATCH = 2, 16
FORWARD_PASS_S = 0.15  # the target; the batch size follows from it
ROUNDS, ROUNDS_S = 3, 1.0  # timed rounds after a warm-up; fewer if they take longer
MAX_TIME_RATIO = 0.85  # a smaller gain is noise, and the choice would differ from run to run


def autotune(config: ComputeConfig, network: nn.Module) -> ComputeConfig:
    """The config with each ``auto`` replaced by the fastest value, as measured on forward passes of ``network``.

    The result is cached for a network and a machine, so that the next run computes in the same way.
    """
    compute = Compute.from_config(config)
    defaults = {
        "device": compute.device.type, "precision": str(compute.dtype).removeprefix("torch."),
        "channels_last": compute.channels_last, "threads": compute.threads or torch.get_num_threads(),
    }  # fmt: skip
    baseline = config.model_copy(update=defaults)
    candidates = list(_candidates(config, baseline))
    if not candidates:
        return baseline
    path = cache_path(
        "compute", config.model_dump_json(), baseline.model_dump_json(), repr(network), *_machine(baseline),
        str(MAX_TIME_RATIO),
    )  # fmt: skip
    if cached := _load_cached(path):
        return cached
    with retain_freed_memory():
        fastest, summary = _benchmark(baseline, candidates, network)
    logger.info("Computes in %s. Set training.compute to override.", summary)
    _save(path, fastest)
    return fastest


def describe(config: ComputeConfig) -> str:
    """Precision, device, memory format and threads in a few words."""
    layout = "channels last" if config.channels_last else "channels first"
    return f"{config.precision} on {config.device}, {layout}, {config.threads} threads"


def _candidates(config: ComputeConfig, baseline: ComputeConfig) -> Iterator[Mapping[str, object]]:
    """Changes to the baseline, one setting at a time."""
    if config.channels_last == "auto":
        yield {"channels_last": False}
    if config.precision == "auto" and baseline.device != "mps":
        yield {"precision": "bfloat16" if baseline.precision == "float32" else "float32"}
    cores = os.cpu_count() or 1
    if config.threads == "auto" and baseline.device == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        yield from ({"threads": count} for count in (cores, cores // 2) if count > 1 and count != baseline.threads)


def _machine(baseline: ComputeConfig) -> list[str]:
    """The properties of this machine and of torch that determine speed."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else [platform.processor()]
    processor = next((line for line in lines if line.startswith("model name")), platform.machine())
    device = torch.cuda.get_device_name() if baseline.device == "cuda" else processor
    return [device, torch.backends.cpu.get_cpu_capability(), str(os.cpu_count()), torch.__version__]


def _benchmark(
    baseline: ComputeConfig, candidates: list[Mapping[str, object]], network: nn.Module
) -> tuple[ComputeConfig, str]:
    """The fastest config, and a summary for the log."""
    start = time.perf_counter()
    images = torch.rand(MAX_BATCH, 3, *[int(network.image_size)] * 2, generator=torch.Generator())  # type: ignore[arg-type]
    forward_pass = _ForwardPass(baseline, network, images[:MIN_BATCH])
    forward_pass.seconds()  # warm-up
    seconds_each = forward_pass.seconds() / MIN_BATCH
    images = images[: max(MIN_BATCH, min(MAX_BATCH, round(FORWARD_PASS_S / seconds_each)))]
    fastest, total_ratio = baseline, 1.0
    for change in candidates:
        candidate = fastest.model_copy(update=change)
        ratio = _time_ratio(candidate, fastest, network, images)
        if ratio < MAX_TIME_RATIO:
            fastest, total_ratio = candidate, total_ratio * ratio
    summary = describe(fastest)
    if fastest != baseline:
        summary += f": {total_ratio:.2f} of the time of {describe(baseline)}"
    return fastest, f"{summary} (measured in {time.perf_counter() - start:.1f} s)"


def _time_ratio(candidate: ComputeConfig, fastest: ComputeConfig, network: nn.Module, images: Tensor) -> float:
    """The candidate's time divided by that of the fastest config so far, each the minimum of alternating passes."""
    candidate_pass, fastest_pass = (_ForwardPass(config, network, images) for config in (candidate, fastest))
    for forward_pass in (candidate_pass, fastest_pass):
        forward_pass.seconds()  # warm-up
    rounds: list[tuple[float, float]] = []
    while not rounds or (len(rounds) < ROUNDS and sum(map(sum, rounds)) < ROUNDS_S):
        rounds.append((candidate_pass.seconds(), fastest_pass.seconds()))
    return min(seconds for seconds, _ in rounds) / min(seconds for _, seconds in rounds)


class _ForwardPass:
    """A forward pass through a copy of a network with one config."""

    def __init__(self, config: ComputeConfig, network: nn.Module, images: Tensor) -> None:
        self.compute = Compute.from_config(config)
        self.network = self.compute.model_to_device(copy.deepcopy(network).eval())
        self.images = self.compute.features_to_device(images)

    def seconds(self) -> float:
        start = time.perf_counter()
        with self.compute.context(), self.compute.autocast(), torch.inference_mode():
            self.network(self.images)
            if self.compute.device.type != "cpu":
                torch.accelerator.synchronize()
        return time.perf_counter() - start


def _load_cached(path: Path) -> ComputeConfig | None:
    try:
        return ComputeConfig.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        logger.debug("%s: %s", path, error)
        return None


def _save(path: Path, config: ComputeConfig) -> None:
    try:
        write_atomically(path, config.model_dump_json().encode())
    except OSError as error:
        logger.warning("%s; the next run measures again which settings are fastest.", describe_write_error(error, path))
