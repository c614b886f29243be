"""Where and how precisely to compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graft.compute.kernels import FastKernels
from graft.compute.memory import kept_memory
from graft.errors import ConfigError, TrainingError, said
from graft.networks.transforms import Preprocessing, normalise, require_normalised
from graft.training_config import ComputeConfig

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """A device, the precision of its matrix products, the layout of images in its memory, and how many threads."""

    device: torch.device
    dtype: torch.dtype
    channels_last: bool
    threads: int | None = None

    @classmethod
    def of(cls, config: ComputeConfig) -> Compute:
        """What a config asks for, and the usual where that is ``auto``.

        Raises ``ConfigError`` where this machine cannot give it.
        """
        device = _device(config.device)
        threads = None if config.threads == "auto" else config.threads
        return cls(device, _precision(config.precision, device), config.channels_last is not False, threads)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Compute with so many threads inside; what memory one batch frees is kept for the next."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        try:
            with kept_memory():
                yield
        finally:
            torch.set_num_threads(before)

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Mixed precision for what runs inside, without torch's slowest kernels; weights stay in float32."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32):
            slow = self.device.type == "cpu" and self.dtype is torch.bfloat16
            with FastKernels() if slow else nullcontext():
                yield

    def scaler(self) -> torch.amp.GradScaler:
        """Keeps small gradients of float16 from vanishing; does nothing at any other precision."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)

    def place_model(self, model: nn.Module) -> nn.Module:
        """Move a model here."""
        return model.to(self.device, memory_format=self._layout)  # type: ignore[call-overload,no-any-return]

    def place_images(self, pixels: Tensor, shape: Preprocessing) -> Tensor:
        """Move images uint8 ``[batch, 3, height, width]`` here and normalise them, to float32.

        Raises ``TrainingError`` where pixels are not 0..255.
        """
        images = normalise(pixels.to(self.device, non_blocking=True), shape)
        require_normalised(images, shape)
        return images.contiguous(memory_format=self._layout)  # last: normalising takes four times as long in it

    def place(self, activations: Tensor) -> Tensor:
        """Move what a layer gave ``[batch, ...]`` here, in float32."""
        here = activations.to(self.device, torch.float32, non_blocking=True)
        return here.contiguous(memory_format=self._layout) if here.ndim == 4 else here

    @property
    def _layout(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format


def require_compiler(config: ComputeConfig) -> None:
    """Compile a sum where the config asks for compiling; raises ``ConfigError`` where that fails."""
    if not config.compile:
        return
    ones = torch.ones(2, device=_device(config.device))
    try:
        torch.compile(torch.add)(ones, ones)
    # Without a compiler, its headers or its libraries, torch raises what each of its parts raises.
    except Exception as error:
        raise ConfigError(
            f"training.compute.compile is true, and torch cannot compile here ({said(error)}); install a C++ "
            f"compiler such as g++, or leave compile out."
        ) from error


@contextmanager
def enough_memory(batch_size: int) -> Iterator[None]:
    """Raise ``TrainingError`` where the device runs out of memory inside."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"a batch of {batch_size} images does not fit the device's memory; lower training.batch_size, and "
            f"raise training.optimizer.accumulation_steps for it."
        ) from error


def _device(name: str) -> torch.device:
    here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        return here or torch.device("cpu")
    if name != "cpu" and (here is None or here.type != name):
        raise ConfigError(
            f"training.compute.device is {name!r}, and this machine has {here.type if here else 'cpu'} only; "
            f"take auto."
        )
    return torch.device(name)


def _precision(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        good = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if good else torch.float32
    if name == "float16" and device.type == "cpu":
        raise ConfigError("training.compute.precision is 'float16', which is for CUDA and Apple; take float32.")
    return PRECISIONS[name]
