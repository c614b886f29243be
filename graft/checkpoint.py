"""A checkpoint: a directory of ``weights.safetensors`` and ``checkpoint.json``, never a pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from safetensors.torch import load, save
from torch import Tensor, nn

from graft.learning.history import EpochMetrics
from graft.networks.backbones import skeleton
from graft.networks.freezing import FreezeProof
from graft.networks.transforms import Preprocessing

WEIGHTS_FILE = "weights.safetensors"
FACTS_FILE = "checkpoint.json"


@dataclass(frozen=True)
class Checkpoint:
    """A trained classifier with all that is needed to use it, and what it was made of.

    ``best`` holds the metrics of the epoch whose weights these are, ``best_epoch`` its number in the last phase
    (from 1; 0 where the phase made nothing better). ``history`` holds that phase's epochs; ``proofs`` what stayed
    frozen; ``training_hashes`` the SHA-256 of every image that weights or choice of epoch saw; ``recipe`` the
    config that it was trained by.
    """

    architecture: str
    dropout: float
    classes: list[str]
    preprocessing: Preprocessing
    stage: Literal["warm_up", "fine_tune"]
    weights: dict[str, Tensor]
    weights_licence: str
    recipe: dict[str, Any]
    best: EpochMetrics
    best_epoch: int = 0
    history: list[EpochMetrics] = field(default_factory=list)
    proofs: list[FreezeProof] = field(default_factory=list)
    training_hashes: list[str] = field(default_factory=list)

    def model(self) -> nn.Module:
        """The classifier in eval mode: normalised float32 ``[batch, 3, h, w]`` to logits ``[batch, classes]``."""
        model = skeleton(self.architecture, len(self.classes), self.dropout, self.preprocessing.crop_px)
        model.load_state_dict(self.weights)
        return model.eval()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of weights and facts."""
        return hashlib.sha256(save(self.weights) + self._facts().encode()).hexdigest()

    def files(self) -> dict[str, bytes]:
        """The two files of the directory by name."""
        return {WEIGHTS_FILE: save(self.weights), FACTS_FILE: self._facts().encode()}

    @classmethod
    def from_files(cls, read: Callable[[str], bytes]) -> Checkpoint:
        """The checkpoint whose files ``read`` gives by name."""
        facts = json.loads(read(FACTS_FILE))
        shape = facts["preprocessing"]
        facts["preprocessing"] = Preprocessing(**shape | {key: tuple(shape[key]) for key in ("mean", "std")})
        facts["best"] = EpochMetrics(**facts["best"])
        facts["history"] = [EpochMetrics(**epoch) for epoch in facts["history"]]
        facts["proofs"] = [FreezeProof(**proof) for proof in facts["proofs"]]
        return cls(weights=load(read(WEIGHTS_FILE)), **facts)

    def _facts(self) -> str:
        facts = {name: value for name, value in vars(self).items() if name != "weights"}
        facts["preprocessing"] = asdict(self.preprocessing)
        facts["best"] = asdict(self.best)
        for name in ("history", "proofs"):
            facts[name] = [asdict(one) for one in facts[name]]
        return json.dumps(facts, indent=1, sort_keys=True)
