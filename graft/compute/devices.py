"""Device, precision, memory format and threads of a training or evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graft.compute.kernels import FastKernels
from graft.compute.memory import retain_freed_memory
from graft.config.training import ComputeConfig
from graft.errors import ConfigError, TrainingError, error_summary
from graft.models.transforms import Preprocessing, check_normalized, normalize

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """A device, the dtype of mixed precision, the memory format of images, and the number of CPU threads."""

    device: torch.device
    dtype: torch.dtype
    channels_last: bool
    threads: int | None = None

    @classmethod
    def from_config(cls, config: ComputeConfig) -> Compute:
        """Resolve a config, with a default for each ``auto``.

        Raises ``ConfigError`` if this machine does not support a setting.
        """
        device = _device(config.device)
        threads = None if config.threads == "auto" else config.threads
        return cls(device, _precision(config.precision, device), config.channels_last is not False, threads)

    @contextmanager
    def context(self) -> Iterator[None]:
        """Within the ``with`` block, use these threads, and reuse the memory that one batch frees for the next."""
        previous = torch.get_num_threads()
        torch.set_num_threads(self.threads or previous)
        try:
            with retain_freed_memory():
                yield
        finally:
            torch.set_num_threads(previous)

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Mixed precision in the ``with`` block, with ``FastKernels`` for bfloat16 on a CPU; weights stay float32."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32):
            has_slow_kernels = self.device.type == "cpu" and self.dtype is torch.bfloat16
            with FastKernels() if has_slow_kernels else nullcontext():
                yield

    def scaler(self) -> torch.amp.GradScaler:
        """A loss scaler, which keeps small float16 gradients from underflowing; disabled at any other precision."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)

    def model_to_device(self, model: nn.Module) -> nn.Module:
        """The model, moved in place to the device and its memory format."""
        return model.to(self.device, memory_format=self._memory_format)  # type: ignore[call-overload,no-any-return]

    def images_to_device(self, pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
        """Images uint8 ``[batch, 3, height, width]`` on the device, normalised, in float32.

        Raises ``TrainingError`` if pixels are not in 0..255.
        """
        images = normalize(pixels.to(self.device, non_blocking=True), preprocessing)
        check_normalized(images, preprocessing)
        # Converted last, because normalising takes four times as long in channels last.
        return images.contiguous(memory_format=self._memory_format)

    def features_to_device(self, features: Tensor) -> Tensor:
        """Features ``[batch, ...]`` on the device, in float32 and in the memory format of images if they are maps."""
        features = features.to(self.device, torch.float32, non_blocking=True)
        return features.contiguous(memory_format=self._memory_format) if features.ndim == 4 else features

    @property
    def _memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format


def check_compiler(config: ComputeConfig) -> None:
    """Compile a small function if the config enables compiling; raises ``ConfigError`` if that fails."""
    if not config.compile:
        return
    ones = torch.ones(2, device=_device(config.device))
    try:
        torch.compile(torch.add)(ones, ones)
    # torch raises different types for a missing compiler, missing headers and missing libraries.
    except Exception as error:
        raise ConfigError(
            f"training.compute.compile is true, but torch cannot compile ({error_summary(error)}); install a C++ "
            f"compiler such as g++, or set it to false."
        ) from error


@contextmanager
def oom_as_training_error(batch_size: int) -> Iterator[None]:
    """Raise ``TrainingError`` if the device runs out of memory within the ``with`` block."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"a batch of {batch_size} images does not fit the device's memory; lower training.batch_size, and "
            f"raise training.optimizer.accumulation_steps to compensate."
        ) from error


def _device(name: str) -> torch.device:
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        return accelerator or torch.device("cpu")
    if name != "cpu" and (accelerator is None or accelerator.type != name):
        available = accelerator.type if accelerator else "cpu"
        raise ConfigError(
            f"training.compute.device is {name!r}, but this machine has only {available}; set it to auto."
        )
    return torch.device(name)


def _precision(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bfloat16 else torch.float32
    if name == "float16" and device.type == "cpu":
        raise ConfigError(
            "training.compute.precision is 'float16', which only CUDA and MPS support; set it to float32."
        )
    return PRECISIONS[name]
