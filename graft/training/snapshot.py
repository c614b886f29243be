"""Snapshots of a training after each epoch, from which a killed run resumes: safetensors, never a pickle.

They hold no random state: each epoch seeds its own random numbers from the seed, the phase and the epoch.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from graft.cache.files import cache_path, package_digest, write_atomically
from graft.evaluation.evaluate import label_predictions
from graft.evaluation.metrics import Predictions
from graft.features.loaders import TrainingImages
from graft.models.freezing import FrozenDigest
from graft.places import describe_write_error
from graft.training.history import EpochMetrics

logger = logging.getLogger(__name__)
SUFFIX = ".safetensors"
METADATA_KEY = "training"
FINISHED_LIFETIME_S, UNFINISHED_LIFETIME_S = 24 * 3600, 30 * 24 * 3600


@dataclass(frozen=True)
class Snapshot:
    """The state of a training after the epochs in ``history``.

    ``tensors`` are on the CPU, named as by ``Trainer.state``: ``model/...``, ``optimizer/...``, and with a
    moving average ``average/...`` and ``averaged/count``; logits on the validation images are ``logits/<epochs>``.
    ``scaler`` is the state of the gradient scaler.
    """

    history: list[EpochMetrics]
    tensors: dict[str, Tensor]
    frozen_digests: list[FrozenDigest] = field(default_factory=list)
    scaler: dict[str, Any] = field(default_factory=dict)
    finished: bool = False

    def group(self, name: str) -> dict[str, Tensor]:
        """The tensors of one group, without its prefix."""
        prefix = f"{name}/"
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}

    def predictions(self, images: TrainingImages) -> dict[int, Predictions]:
        """The predictions on the validation images, by the number of epochs after which they were made."""
        return {
            int(epochs): label_predictions(logits.numpy(), images.dataset, images.validation)
            for epochs, logits in self.group("logits").items()
        }


@dataclass(frozen=True)
class SnapshotFile:
    """The file with the latest snapshot of one training."""

    path: Path

    @classmethod
    def for_key(cls, *key: str) -> SnapshotFile:
        """The file of the training with this key; ``key`` must hold everything that determines its result."""
        path = cache_path("training", *key, package_digest())
        return cls(path.with_name(path.name + SUFFIX))

    def read(self) -> Snapshot | None:
        """The latest snapshot; None if there is none, or if it cannot be read, which is logged."""
        try:
            with safe_open(self.path, "pt") as file:
                metadata = json.loads(file.metadata()[METADATA_KEY])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
            metadata["history"] = [EpochMetrics(**epoch) for epoch in metadata["history"]]
            metadata["frozen_digests"] = [FrozenDigest(**digest) for digest in metadata["frozen_digests"]]
            return Snapshot(tensors=tensors, **metadata)
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            logger.warning("%s cannot be read (%s); training starts from the beginning.", self.path, error)
            return None

    def write(self, snapshot: Snapshot) -> None:
        """Replace the previous snapshot; if the disk is full, log that and return."""
        metadata = {name: value for name, value in vars(snapshot).items() if name != "tensors"}
        metadata["history"] = [asdict(epoch) for epoch in snapshot.history]
        metadata["frozen_digests"] = [asdict(digest) for digest in snapshot.frozen_digests]
        try:
            write_atomically(self.path, save(snapshot.tensors, {METADATA_KEY: json.dumps(metadata)}))
        except OSError as error:
            logger.warning("%s; a killed run would start over.", describe_write_error(error, self.path))

    def remove_expired_snapshots(self) -> None:
        """Remove snapshots of other trainings: finished ones after a day, unfinished ones after 30 days."""
        for path in self.path.parent.glob(f"*{SUFFIX}*"):
            try:
                age_s = time.time() - path.stat().st_mtime
                # Another suffix is a temporary file of a process that was killed while it wrote.
                finished = path.suffix != SUFFIX or _is_finished(path)
                if path != self.path and age_s > (FINISHED_LIFETIME_S if finished else UNFINISHED_LIFETIME_S):
                    path.unlink()
            except OSError as error:  # another process has removed it
                logger.debug("%s: %s", path, error)


def optimizer_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """CPU copies of an optimizer's state, named ``<parameter>/<key>``."""
    return {
        f"{name}/{key}": value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(model: nn.Module, optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Load the state that ``optimizer_tensors`` returned, each tensor in the memory layout of its parameter."""
    parameters = dict(model.named_parameters())
    for name, value in tensors.items():
        parameter_name, _, key = name.rpartition("/")
        parameter = parameters[parameter_name]
        like = torch.empty_like(parameter) if value.shape == parameter.shape else torch.empty_like(value)
        optimizer.state[parameter][key] = like.copy_(value)


def _is_finished(path: Path) -> bool:
    try:
        with safe_open(path, "pt") as file:
            return bool(json.loads(file.metadata()[METADATA_KEY])["finished"])
    except (SafetensorError, KeyError, TypeError, ValueError):
        return True
