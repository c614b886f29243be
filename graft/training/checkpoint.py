"""A checkpoint: a directory of ``weights.safetensors`` and ``checkpoint.json``, never a pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from safetensors.torch import load, save
from torch import Tensor, nn

from graft.models.backbones import create_model
from graft.models.freezing import FrozenDigest
from graft.models.transforms import Preprocessing
from graft.training.history import EpochMetrics, PhaseName

WEIGHTS_FILE = "weights.safetensors"
METADATA_FILE = "checkpoint.json"


@dataclass(frozen=True)
class Checkpoint:
    """A trained classifier with everything needed to use it, and its provenance.

    ``history`` holds the epochs of its last phase. ``frozen_digests`` prove which weights did not change.
    ``training_hashes`` are the SHA-256 of all training images. ``recipe`` is the config that it was trained with.
    ``failure`` says why fine-tuning was abandoned, if it was.
    """

    architecture: str
    dropout: float
    classes: list[str]
    preprocessing: Preprocessing
    phase: PhaseName
    weights: dict[str, Tensor]
    weights_licence: str
    recipe: dict[str, Any]
    history: list[EpochMetrics] = field(default_factory=list)
    frozen_digests: list[FrozenDigest] = field(default_factory=list)
    training_hashes: list[str] = field(default_factory=list)
    failure: str = ""

    def model(self) -> nn.Module:
        """The classifier in eval mode: normalised float32 ``[batch, 3, h, w]`` to logits ``[batch, classes]``."""
        model = create_model(self.architecture, len(self.classes), self.dropout, self.preprocessing.crop_px)
        model.load_state_dict(self.weights)
        return model.eval()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of weights and metadata."""
        return hashlib.sha256(save(self.weights) + self._metadata().encode()).hexdigest()

    def files(self) -> dict[str, bytes]:
        """The two files of the directory by name."""
        return {WEIGHTS_FILE: save(self.weights), METADATA_FILE: self._metadata().encode()}

    @classmethod
    def from_files(cls, read: Callable[[str], bytes]) -> Checkpoint:
        """The inverse of ``files``; ``read`` returns the content of a file by its name."""
        metadata = json.loads(read(METADATA_FILE))
        preprocessing = metadata["preprocessing"]
        tuples = {key: tuple(preprocessing[key]) for key in ("mean", "std")}
        metadata["preprocessing"] = Preprocessing(**preprocessing | tuples)
        metadata["history"] = [EpochMetrics(**epoch) for epoch in metadata["history"]]
        metadata["frozen_digests"] = [FrozenDigest(**digest) for digest in metadata["frozen_digests"]]
        return cls(weights=load(read(WEIGHTS_FILE)), **metadata)

    def _metadata(self) -> str:
        metadata = {name: value for name, value in vars(self).items() if name != "weights"}
        metadata["preprocessing"] = asdict(self.preprocessing)
        metadata["history"] = [asdict(epoch) for epoch in self.history]
        metadata["frozen_digests"] = [asdict(digest) for digest in self.frozen_digests]
        return json.dumps(metadata, indent=1, sort_keys=True)
