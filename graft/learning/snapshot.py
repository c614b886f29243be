"""A training between two epochs, kept in a file so that a killed one goes on: safetensors, never a pickle.

Random numbers need no place in it: each epoch draws its own from the seed, the phase and its number.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from graft.cache.files import cache_place, code_version, write_whole
from graft.learning.history import EpochMetrics
from graft.networks.freezing import FreezeProof

logger = logging.getLogger(__name__)
SUFFIX = ".safetensors"
FINISHED_KEPT_S, UNFINISHED_KEPT_S = 24 * 3600, 30 * 24 * 3600


@dataclass(frozen=True)
class Snapshot:
    """What training must know to go on after so many finished epochs.

    ``tensors`` are named ``model/…``, ``best/…``, ``average/…`` and ``optimizer/…``, as they lie on the CPU.
    """

    history: list[EpochMetrics]
    tensors: dict[str, Tensor]
    proofs: list[FreezeProof] = field(default_factory=list)
    scaler: dict[str, Any] = field(default_factory=dict)
    finished: bool = False

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors below one name."""
        return {
            key.removeprefix(f"{name}/"): value
            for key, value in self.tensors.items()
            if key.startswith(f"{name}/")
        }


@dataclass(frozen=True)
class SnapshotFile:
    """Where the snapshots of one training lie, each in the place of the last."""

    path: Path

    @classmethod
    def of(cls, *key: str) -> SnapshotFile:
        """The file for a training that is told by all that decides its result."""
        place = cache_place("training", *key, code_version())
        return cls(place.with_name(place.name + SUFFIX))

    def read(self) -> Snapshot | None:
        """The last snapshot; None where there is none that can be read."""
        try:
            with safe_open(self.path, "pt") as file:
                facts = json.loads(file.metadata()["facts"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
            facts["history"] = [EpochMetrics(**epoch) for epoch in facts["history"]]
            facts["proofs"] = [FreezeProof(**proof) for proof in facts["proofs"]]
            return Snapshot(tensors=tensors, **facts)
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            logger.warning("%s cannot be read (%s); training starts at its beginning.", self.path, error)
            return None

    def write(self, snapshot: Snapshot) -> None:
        """Put a snapshot in place of the last; where there is no room, training goes on without."""
        facts = {name: value for name, value in vars(snapshot).items() if name != "tensors"}
        for name in ("history", "proofs"):
            facts[name] = [asdict(one) for one in facts[name]]
        try:
            write_whole(self.path, save(snapshot.tensors, {"facts": json.dumps(facts)}))
        except OSError as error:
            logger.warning("%s cannot be written (%s); a killed run would start over.", self.path, error.strerror)

    def clear_old(self) -> None:
        """Remove what others left: finished ones after a day, unfinished ones after a month."""
        for path in self.path.parent.glob(f"*{SUFFIX}*"):
            try:
                age = time.time() - path.stat().st_mtime
                over = path.suffix != SUFFIX or _is_finished(path)  # another suffix: a kill came between its bytes
                if path != self.path and (age > UNFINISHED_KEPT_S or (age > FINISHED_KEPT_S and over)):
                    path.unlink()
            except OSError as error:  # another process was faster
                logger.debug("%s: %s", path, error)


def optimizer_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """What an optimizer knows of each parameter, by the parameter's name."""
    return {
        f"{name}/{key}": value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(model: nn.Module, optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give an optimizer back what it knew, each tensor in the layout of its parameter."""
    for name, parameter in model.named_parameters():
        for key, value in _below(tensors, name):
            layout = torch.empty_like(parameter) if value.shape == parameter.shape else torch.empty_like(value)
            optimizer.state[parameter][key] = layout.copy_(value)


def _below(tensors: dict[str, Tensor], name: str) -> Iterator[tuple[str, Tensor]]:
    return ((key.rpartition("/")[2], value) for key, value in tensors.items() if key.rpartition("/")[0] == name)


def _is_finished(path: Path) -> bool:
    try:
        with safe_open(path, "pt") as file:
            return bool(json.loads(file.metadata()["facts"])["finished"])
    except (SafetensorError, KeyError, TypeError, ValueError):
        return True
