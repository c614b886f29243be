"""Snapshots: a killed training resumes, and ends with the weights of an uninterrupted one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from graft.training.history import EpochMetrics
from graft.training.snapshot import Snapshot, SnapshotFile

METRICS = EpochMetrics(0.5, 0.4, 0.9, 0.8, 0.95, {"head": 0.1})

# One process that has imported torch forks a child for each training, so that a kill costs no second import.
# The parent itself runs nothing of torch: a fork would not survive its threads.
KILL_SCRIPT = """
import hashlib, json, logging, os, random, signal, sys, time, traceback
from pathlib import Path
import pandas as pd
import psutil
import torch
from graft.config.parameters import ModelConfig
from graft.config.training import AugmentationConfig, TrainLoopConfig
from graft.features.loaders import DatasetInfo, TrainingImages
from graft.models.backbones import build_model, preprocessing_for
from graft.training.history import Phase
from graft.training.loop import TrainResult, train

logging.basicConfig(level=logging.INFO)
root, caches, rounds = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
records = []
for path in sorted(root.glob("*/*.png")):
    if path.parent.name in "012":
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        records.append({"path": str(path.relative_to(root)), "label": path.parent.name, "sha256": sha256})
table = pd.DataFrame(records)
model = ModelConfig(architecture="mobilenet_v3_small", weights="letters")
augmentation = AugmentationConfig(strength="strong", mixup_alpha=0.2)
config = TrainLoopConfig(batch_size=8, ema_decay=0.9, augmentation=augmentation)
PHASES = (Phase("warmup", 2, 0.01), Phase("finetune", 4, 1e-3, 0.5, (0, 1, 3)))

def run_training(cache):
    os.environ["GRAFT_CACHE"] = str(cache)
    torch.set_num_threads(1)
    dataset = DatasetInfo(root, ["0", "1", "2"], preprocessing_for(model))
    images = TrainingImages(dataset, table.groupby("label").head(16), table.groupby("label").tail(4))
    result = TrainResult(build_model(model, 3, seed=0))
    for phase in PHASES:
        result = train(result, phase, config, images, seed=0, on_epoch_end=lambda *_: None)
    digest = hashlib.sha256()
    for name, value in result.model.state_dict().items():
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    (Path(cache) / "result").write_text(json.dumps([digest.hexdigest(), time.process_time()]))

def fork_training(cache):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run_training(cache)
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child

def finish_training(cache):
    assert os.waitpid(fork_training(cache), 0)[1] == 0
    return json.loads((cache / "result").read_text())

for name in ("whole", *map(str, range(rounds))):
    (caches / name).mkdir()
expected, cpu_s = finish_training(caches / "whole")
moments = random.Random(0)
results = []
for round in range(rounds):
    cache = caches / str(round)
    child = fork_training(cache)
    # One kill in each tenth of the training, so that warm-up, unfreezing and fine-tuning are all hit.
    # Measured in CPU time, which a busy machine does not change.
    kill_at, process = cpu_s * (round + moments.random()) / rounds, psutil.Process(child)
    while process.status() != psutil.STATUS_ZOMBIE and sum(process.cpu_times()[:2]) < kill_at:
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    results.append((killed, finish_training(cache)[0] == expected))
print(json.dumps(results))
"""


def test_training_killed_at_ten_moments_resumes_to_the_same_weights(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "kill.py").write_text(KILL_SCRIPT)
    (tmp_path / "caches").mkdir()
    done = subprocess.run(
        [sys.executable, "kill.py", str(digits), "caches", "10"],
        cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert all(same_weights for _, same_weights in results)
    # The last kill may come too late; most must not.
    assert sum(killed for killed, _ in results) >= 8
    # No epoch is trained twice: 11 trainings of 6 epochs, less the epochs whose log line a kill prevented.
    assert 50 <= done.stderr.count("validation accuracy") <= 11 * 6


@pytest.fixture
def file() -> SnapshotFile:
    return SnapshotFile.for_key("a test", str(time.time()))


def test_snapshot_is_read_as_written(file: SnapshotFile) -> None:
    assert file.read() is None
    written = Snapshot([METRICS], {"model/a": torch.arange(6.0).view(2, 3), "best/a.b": torch.ones(1)}, [], {"x": 1})
    file.write(written)
    read = file.read()
    assert read is not None
    assert (read.history, read.scaler, read.finished) == ([METRICS], {"x": 1}, False)
    assert torch.equal(read.group("model")["a"], written.group("model")["a"])
    assert list(read.group("best")) == ["a.b"]


@pytest.mark.parametrize("damage", ["torn", "foreign", "empty"])
def test_damaged_snapshot_is_ignored_with_a_warning(
    file: SnapshotFile, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    file.write(Snapshot([METRICS], {"model/a": torch.ones(9)}))
    content = file.path.read_bytes()
    file.path.write_bytes({"torn": content[:-8], "foreign": b"PK" * 200, "empty": b""}[damage])
    assert file.read() is None
    assert "training starts from the beginning" in caplog.text


def test_snapshot_that_cannot_be_written_is_a_warning(
    file: SnapshotFile, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("graft.training.snapshot.write_atomically", disk_full)
    file.write(Snapshot([METRICS], {}))
    assert "No space left on device" in caplog.text


def test_remove_expired_removes_old_snapshots_of_other_trainings(file: SnapshotFile) -> None:
    cases = [(True, 2, False), (False, 2, True), (False, 40, False), (True, 0, True)]  # finished, age in days, remains
    others = [SnapshotFile.for_key(f"another test {number}") for number in range(len(cases))]
    for other, (finished, age_days, _) in zip(others, cases, strict=True):
        other.write(Snapshot([METRICS], {"model/a": torch.ones(1)}, finished=finished))
        written_at = time.time() - age_days * 24 * 3600
        os.utime(other.path, (written_at, written_at))
    file.remove_expired_snapshots()
    assert [other.path.exists() for other in others] == [remains for _, _, remains in cases]
