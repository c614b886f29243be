"""A training that is killed goes on, and ends with the weights of one that was not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from graft.learning.history import EpochMetrics
from graft.learning.snapshot import Snapshot, SnapshotFile

METRICS = EpochMetrics(0.5, 0.4, 0.9, 0.8, 0.95, {"head": 0.1})

# One process that has imported torch forks a child for each attempt, so that a kill costs no second import.
# Nothing of torch has run in it yet: a fork would not survive its threads.
NURSERY = """
import hashlib, json, logging, os, random, signal, sys, time, traceback
from pathlib import Path
import psutil
import torch
from graft.networks.backbones import build, preprocessing
from graft.config import ModelConfig
from graft.inputs.datasets import ImageSource
from graft.learning.history import Phase
from graft.data.manifest import Manifest
from graft.inputs.datasets import Images
from graft.training import Trained, train
from graft.training_config import AugmentationConfig, LoopConfig
import pandas as pd

logging.basicConfig(level=logging.INFO)
root, place, rounds = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
rows = []
for path in sorted(root.glob("*/*.png")):
    if path.parent.name in "012":
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        rows.append({"path": str(path.relative_to(root)), "label": path.parent.name, "sha256": sha256})
table = pd.DataFrame(rows)
model = ModelConfig(architecture="mobilenet_v3_small", weights="letters")
loop = LoopConfig(batch_size=8, ema_decay=0.9, augmentation=AugmentationConfig(strength="strong", mixup_alpha=0.2))
PHASES = (Phase("warmup", 2, 0.01), Phase("finetune", 4, 1e-3, 0.5, None, (0, 1, 3)))

def attempt(cache):
    os.environ["GRAFT_CACHE"] = str(cache)
    torch.set_num_threads(1)
    source = ImageSource(root, ["0", "1", "2"], preprocessing(model))
    images = Images(source, table.groupby("label").head(16), table.groupby("label").tail(4))
    trained = Trained(build(model, 3, seed=0))
    for phase in PHASES:
        trained = train(trained, phase, loop, images, 0, lambda *_: None)
    digest = hashlib.sha256()
    for name, value in trained.model.state_dict().items():
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    (Path(cache) / "result").write_text(json.dumps([digest.hexdigest(), time.process_time()]))

def spawn(cache):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            attempt(cache)
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child

def finish(cache):
    assert os.waitpid(spawn(cache), 0)[1] == 0
    return json.loads((cache / "result").read_text())

for name in ("whole", *map(str, range(rounds))):
    (place / name).mkdir()
expected, seconds = finish(place / "whole")
moments = random.Random(0)
said = []
for round in range(rounds):
    cache = place / str(round)
    child = spawn(cache)
    # One moment in each tenth of the whole, so that warm-up, thaws and fine-tuning all have their share.
    # By its own time, which runs the same on a busy machine.
    moment, process = seconds * (round + moments.random()) / rounds, psutil.Process(child)
    while process.status() != psutil.STATUS_ZOMBIE and sum(process.cpu_times()[:2]) < moment:
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    said.append((killed, finish(cache)[0] == expected))
print(json.dumps({"seconds": seconds, "rounds": said}))
"""


def test_killed_at_ten_moments_and_started_again_it_ends_with_the_same_weights(
    digits: Path, tmp_path: Path
) -> None:
    (tmp_path / "nursery.py").write_text(NURSERY)
    (tmp_path / "caches").mkdir()
    done = subprocess.run(
        [sys.executable, "nursery.py", str(digits), "caches", "10"],
        cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rounds = json.loads(done.stdout)["rounds"]
    assert all(same for _, same in rounds)
    # The last moment may come too late; most must not.
    assert sum(killed for killed, _ in rounds) >= 8
    # No epoch is trained twice: those of eleven trainings, less those whose end was cut off before it was told.
    assert 50 <= done.stderr.count("validation accuracy") <= 11 * 6


@pytest.fixture
def file() -> SnapshotFile:
    return SnapshotFile.of("a test", str(time.time()))


def test_a_snapshot_comes_back(file: SnapshotFile) -> None:
    assert file.read() is None
    written = Snapshot(
        [METRICS], {"model/a": torch.arange(6.0).view(2, 3), "best/a.b": torch.ones(1)}, [], {"x": 1}
    )
    file.write(written)
    back = file.read()
    assert back is not None
    assert (back.history, back.scaler, back.finished) == ([METRICS], {"x": 1}, False)
    assert torch.equal(back.part("model")["a"], written.part("model")["a"])
    assert list(back.part("best")) == ["a.b"]


@pytest.mark.parametrize("damage", ["torn", "foreign", "empty"])
def test_a_damaged_snapshot_is_passed_over_and_said(
    file: SnapshotFile, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    file.write(Snapshot([METRICS], {"model/a": torch.ones(9)}))
    content = file.path.read_bytes()
    file.path.write_bytes({"torn": content[:-8], "foreign": b"PK" * 200, "empty": b""}[damage])
    assert file.read() is None
    assert "training starts at its beginning" in caplog.text


def test_where_nothing_can_be_written_training_goes_on(
    file: SnapshotFile, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("graft.learning.snapshot.write_whole", full)
    file.write(Snapshot([METRICS], {}))
    assert "No space left on device" in caplog.text


def test_what_others_left_is_removed_when_it_is_old(file: SnapshotFile) -> None:
    ages = {"finished, a day": (True, 2, False), "unfinished, a day": (False, 2, True),
            "unfinished, a month": (False, 40, False), "finished, today": (True, 0, True)}  # fmt: skip
    others = {name: SnapshotFile.of(name) for name in ages}
    for name, (finished, days, _) in ages.items():
        others[name].write(Snapshot([METRICS], {"model/a": torch.ones(1)}, finished=finished))
        when = time.time() - days * 24 * 3600
        os.utime(others[name].path, (when, when))
    file.clear_old()
    assert {name: other.path.exists() for name, other in others.items()} == {
        name: age[2] for name, age in ages.items()
    }
