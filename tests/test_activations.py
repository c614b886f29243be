"""What frozen layers gave is kept whole or not at all, within its bound, and changes nothing but the time."""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import multiprocessing
import os
import re
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from few_digits import MODEL, few_digits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from graft.cache.activations import ActivationStore
from graft.cache.row_store import NoRoomError
from graft.inputs.cut import Cut
from graft.inputs.datasets import Images, ImageSource
from graft.inputs.frozen_views import (
    ComputedViews,
    FrozenViews,
    StoredViews,
    compute_ahead,
    count_views,
    evaluation_views,
    training_views,
)
from graft.learning.evaluation import evaluate, evaluate_rest
from graft.learning.history import EpochMetrics, Phase
from graft.learning.learner import Learner
from graft.learning.supply import Activations, Pixels, Supply
from graft.networks.backbones import build, preprocessing, stages
from graft.training import Trained, train
from graft.training_config import LoopConfig, LoraConfig

GRADUAL = Phase("finetune", 3, 1e-4, 0.5, None, (0, 1))
LARGE = 10**9


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def _keeping_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy this machine is: images of tests are so small that it may not."""
    monkeypatch.setattr("graft.cache.lack.TRIED", None)


@pytest.fixture(scope="module")
def images(digits: Path) -> Images:
    """Four of each digit to train on, two to validate."""
    return few_digits(digits, 4, 2)


def loop(**values: Any) -> LoopConfig:  # noqa: ANN401
    return LoopConfig.model_validate({"batch_size": 16, "augmentation": {"strength": "none"}} | values)


def cut(images: Images, stage: str = "features.12", **values: Any) -> Cut:  # noqa: ANN401
    return Cut(build(MODEL, 10, seed=0).eval(), stage, loop(**values), images.source)


def run(images: Images, loop: LoopConfig, phase: Phase = GRADUAL) -> Trained:
    return train(Trained(build(MODEL, 10, seed=0)), phase, loop, images, 0, silent)


def silent(_: Phase, __: int, ___: EpochMetrics) -> None:
    pass


def joined(views: FrozenViews) -> Tensor:
    """The first view of each image."""
    return torch.cat(list(views.in_order(7)))


def segments(cache: Path) -> list[Path]:
    return sorted(cache.glob("kept/*/*.safetensors"))


def difference(one: Trained, other: Trained) -> float:
    pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return max(float(((a - b).abs() / b.abs().clamp(min=1)).max()) for a, b in pairs)


# The same result


def test_without_augmentation_kept_activations_train_the_same_weights(images: Images, cache: Path) -> None:
    kept = run(images, loop(cache={"precision": "float32"}))
    assert segments(cache)
    plain = run(images, loop(cache={"max_gb": 0}))
    assert difference(kept, plain) < 1e-5
    assert difference(kept, Trained(build(MODEL, 10, seed=0))) > 1e-4


def test_half_precision_is_near(images: Images) -> None:
    assert difference(run(images, loop()), run(images, loop(cache={"max_gb": 0}))) < 1e-2


def test_the_average_of_weights_is_judged_from_kept_activations_as_from_pixels(images: Images) -> None:
    kept, plain = (
        run(images, loop(ema_decay=0.5, cache=values)) for values in ({"precision": "float32"}, {"max_gb": 0})
    )
    assert [epoch.val_loss for epoch in kept.history] == pytest.approx([epoch.val_loss for epoch in plain.history])


def test_a_filled_store_gives_the_same_weights_as_an_empty_one(images: Images, cache: Path) -> None:
    augmented = loop(augmentation={"strength": "light"})
    empty = run(images, augmented)
    for path in (cache / "training").iterdir():
        path.unlink()
    held = {path: path.read_bytes() for path in segments(cache)}
    assert difference(run(images, augmented), empty) == 0
    assert {path: path.read_bytes() for path in segments(cache)} == held


def test_what_is_missing_is_rounded_as_if_all_were_computed_at_once(images: Images, cache: Path) -> None:
    rows = images.train
    expected = joined(evaluation_views(cut(images), rows))
    for path in segments(cache):
        path.unlink()
    evaluation_views(cut(images), rows.iloc[3:7])  # a fold was first
    assert torch.equal(joined(evaluation_views(cut(images), rows)), expected)


def test_views_are_augmented_each_in_its_way_and_shared_by_epochs(images: Images) -> None:
    light = cut(images, augmentation={"strength": "light"}, cache={"views": 3})
    views = training_views(light, images.train, epochs=9)
    assert isinstance(views, StoredViews)
    assert views.count == 3
    first, second, fourth = (views.read([(0, number)]) for number in (0, 1, 3))
    assert not torch.equal(first, second)
    assert torch.equal(first, fourth)
    fewer = training_views(light, images.train, epochs=2)
    assert fewer
    assert fewer.count == 2


@pytest.mark.parametrize(
    ("strength", "asked", "count"), [("light", "auto", 1), ("strong", "auto", 3), ("light", 2, 2), ("none", 2, 1)]
)
def test_a_head_alone_needs_fewer_views(strength: str, asked: int | str, count: int) -> None:
    how = loop(augmentation={"strength": strength}, cache={"views": 3, "head_views": asked})
    assert count_views(how, "head", epochs=9) == count
    assert count_views(how, "features.12", epochs=9) == (1 if strength == "none" else 3)


def test_one_pass_computes_what_all_phases_and_folds_will_need(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    light = {"augmentation": {"strength": "light"}, "ema_decay": 0.9}
    expected = run(images, loop(**light))
    monkeypatch.setenv("GRAFT_CACHE", os.environ["GRAFT_CACHE"] + "2")
    names = stages(build(MODEL, 10, seed=0))
    judged = {GRADUAL.first_moving(names)}
    compute_ahead(cut(images, "head", **light), images, GRADUAL.boundaries(names), judged)
    monkeypatch.setattr("graft.inputs.filling._compute", never)
    assert difference(run(images, loop(**light)), expected) == 0


def never(*_: object) -> None:
    raise AssertionError("something was computed twice")


def test_the_boundary_moves_toward_the_input_as_stages_thaw() -> None:
    names = ["a", "b", "c", "head"]
    assert Phase("finetune", 5, 1e-3, thaw_epochs=(1, 1, 3)).boundaries(names) == {"head": 5, "b": 4, "a": 2}
    assert Phase("warmup", 4, 1e-3).boundaries(names) == {"head": 4}


def test_an_image_that_is_renamed_or_in_another_fold_is_not_computed_again(
    images: Images, caplog: pytest.LogCaptureFixture
) -> None:
    evaluation_views(cut(images), images.train)
    caplog.set_level(logging.INFO, logger="graft.inputs.filling")
    caplog.clear()
    evaluation_views(cut(images), images.train.sample(frac=0.5, random_state=0).assign(path="elsewhere.png"))
    assert not caplog.messages


@pytest.mark.parametrize("stage", ["head", "features.12"])
def test_evaluation_from_kept_activations_says_the_same(images: Images, stage: str) -> None:
    where = cut(images, stage, cache={"precision": "float32"})
    kept, plain = evaluate_rest(where, images.validation), evaluate(where.model, images.source, images.validation)
    assert kept.logits == pytest.approx(plain.logits, abs=1e-5)
    assert kept.paths == plain.paths
    assert (kept.labels == plain.labels).all()


@pytest.mark.parametrize(
    "values", [{"sampling": "balanced"}, {"batch_norm": "all_frozen"}, {"optimizer": {"name": "sgd"}}]
)
def test_each_way_of_training_learns_the_same_from_kept_activations(
    images: Images, values: dict[str, Any]
) -> None:
    kept = run(images, loop(cache={"precision": "float32"}, **values))
    assert difference(kept, run(images, loop(cache={"max_gb": 0}, **values))) < 1e-5


def test_adapters_learn_the_same_from_kept_activations(images: Images) -> None:
    phase = replace(GRADUAL, lora=LoraConfig(rank=2))
    kept, plain = (run(images, loop(cache=each), phase) for each in ({"precision": "float32"}, {"max_gb": 0}))
    assert difference(kept, plain) < 1e-5


def test_mixup_mixes_what_frozen_layers_gave(images: Images) -> None:
    mixed = loop(augmentation={"strength": "none", "mixup_alpha": 0.4})
    for phase in (GRADUAL, Phase("warmup", 1, 1e-3)):
        assert difference(run(images, mixed, phase), run(images, loop(), phase)) > 1e-5


def test_other_weights_below_the_cut_have_a_store_of_their_own(images: Images) -> None:
    one, other = cut(images), cut(images)
    with torch.no_grad():
        other.model.get_parameter("features.3.block.0.0.weight").mul_(2)
    given = [joined(evaluation_views(each, images.validation)) for each in (one, other)]
    assert not torch.equal(*given)


@pytest.mark.parametrize(
    "values",
    [
        {"cache": {"max_gb": 0}},
        {"batch_norm": "adapt"},
        {"augmentation": {"cutmix_alpha": 1.0}},
        {"compute": {"compile": True}},
    ],
)
def test_where_frozen_layers_do_not_always_give_the_same_training_takes_pixels(
    images: Images, values: dict[str, Any]
) -> None:
    for some, kind in (({}, Activations), (values, Pixels)):
        learner = Learner(build(MODEL, 10, seed=0), GRADUAL, loop(**some), 3, 0)
        assert isinstance(Supply(images, GRADUAL, loop(**some), 0).at(learner), kind)


# Kept whole, or not at all


def filled(keys: str = "abcd") -> ActivationStore:
    return put(fresh(), keys, values(keys))


def put(store: ActivationStore, keys: str, rows: Tensor) -> ActivationStore:
    store.add(list(keys), store.encode(rows))
    return store


def values(keys: str) -> Tensor:
    return torch.tensor([[ord(key), 0.5] for key in keys])


def fresh() -> ActivationStore:
    return ActivationStore("a test", precision="float16", max_bytes=LARGE)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux what memory holds of files")
def test_memory_does_not_hold_what_was_just_written() -> None:
    def held_of_files() -> int:
        return int(Path("/proc/self/statm").read_text().split()[2]) * os.sysconf("SC_PAGE_SIZE")

    store, keys, rows = fresh(), [str(number) for number in range(64)], torch.rand(64, 2**18)
    encoded, before = store.encode(rows), held_of_files()
    store.add(keys, encoded)
    assert held_of_files() - before < 16e6
    assert torch.allclose(store.read(keys), rows, atol=1e-3)
    assert held_of_files() - before > 32e6


def test_rows_are_found_again_by_another_process() -> None:
    filled()
    store = fresh()
    assert store.missing(list("dxa")) == ["x"]
    assert torch.equal(store.read(["d", "a"]), values("da"))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_segment_never_gives_wrong_values(cache: Path, data: st.DataObject) -> None:
    for path in segments(cache):
        path.unlink()
    filled()
    (path,) = segments(cache)
    content = bytearray(path.read_bytes())
    kind = data.draw(st.sampled_from(["torn", "flipped", "renamed", "foreign"]))
    at = data.draw(st.integers(0, len(content) - 1))
    if kind == "torn":
        content = content[:at]
    elif kind == "flipped":
        content[at] ^= data.draw(st.integers(1, 255))
    elif kind == "renamed":
        old, new = data.draw(st.sampled_from([(b'\\"d\\"', b'\\"a\\"'), (b"F16", b"I16"), (b"[4,1]", b"[2,2]")]))
        assert old in content
        content = content.replace(old, new)
    else:
        content = bytearray(data.draw(st.binary(max_size=100)))
    path.write_bytes(content)
    store = fresh()
    sound = [key for key in "abcd" if key not in store.missing(list("abcd"))]
    assert all(torch.equal(store.read([key]), values(key)) for key in sound)


def test_a_damaged_store_is_computed_anew_and_training_goes_on(
    images: Images, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = run(images, loop())
    for path in (cache / "training").iterdir():
        path.unlink()
    for path in segments(cache):
        content = bytearray(path.read_bytes())
        content[-100] ^= 255
        path.write_bytes(content)
    assert difference(run(images, loop()), expected) == 0
    assert any("is damaged" in message or "cannot be read" in message for message in caplog.messages)


# Within its bound


def test_the_least_recently_used_goes_first(cache: Path) -> None:
    for age, keys in enumerate(("ab", "cd", "ef")):
        filled(keys)
        newest = max(segments(cache), key=lambda path: path.stat().st_ctime_ns)
        os.utime(newest, (1000 - 100 * age, 1000 - 100 * age))
    assert fresh().missing(["e"]) == []  # which makes it the one that was used last
    size = segments(cache)[0].stat().st_size
    put(ActivationStore("another", precision="float16", max_bytes=2 * size + 100), "xy", values("xy"))
    assert fresh().missing(list("abcdef")) == list("cd")


def test_what_was_just_used_is_not_thrown_out_for_more(cache: Path) -> None:
    filled()
    before = segments(cache)
    store = ActivationStore("another", precision="float16", max_bytes=800)
    with pytest.raises(NoRoomError, match=r"training.cache.max_gb allows .*; raise it, or lower"):
        put(store, "xyz", torch.ones(3, 100))
    assert segments(cache) == before
    os.utime(before[0], (1000, 1000))
    put(store, "xyz", torch.ones(3, 100))
    assert before[0] not in segments(cache)


def test_what_a_killed_process_left_half_written_is_thrown_out_as_well(cache: Path) -> None:
    filled()
    half = segments(cache)[0].with_name(".torn.safetensors.x1y2")
    half.write_bytes(bytes(10_000))
    os.utime(half, (1000, 1000))
    put(ActivationStore("another", precision="float16", max_bytes=5000), "x", torch.ones(1, 2))
    assert not half.exists()


def test_a_segment_can_be_read_by_others_as_any_file(cache: Path) -> None:
    filled()
    (cache / "plain").touch()
    assert segments(cache)[0].stat().st_mode == (cache / "plain").stat().st_mode


def test_a_store_that_may_not_be_written_can_be_read(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled()

    def refuse(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(Path, "touch", refuse)
    store = fresh()
    assert store.missing(list("abcd")) == []
    assert segments(cache)


def test_asked_twice_a_store_finds_what_is_there() -> None:
    filled()
    store = fresh()
    assert store.missing(["a"]) == []
    assert store.missing(["b"]) == []


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), PermissionError("read-only")])
def test_a_full_or_closed_disk_costs_time_alone(
    images: Images, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: OSError
) -> None:
    light = loop(augmentation={"strength": "light"}, cache={"views": 2}, batch_size=24)
    kept = run(images, light)
    monkeypatch.setenv("GRAFT_CACHE", os.environ["GRAFT_CACHE"] + "2")

    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr("graft.cache.row_store.write_whole", full)
    assert difference(run(images, light), kept) == 0
    assert any("computed anew each time, not kept" in message for message in caplog.messages)


def test_what_does_not_fit_the_bound_is_not_begun(
    images: Images, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(evaluation_views(cut(images, cache={"max_gb": 1e-6}), images.train), ComputedViews)
    assert "raise it, or lower training.cache.views" in caplog.text
    assert not segments(cache)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(-120, 120), row=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=9))
def test_half_precision_is_relative_to_each_row_however_large_or_small(size: int, row: list[float]) -> None:
    store = ActivationStore(str(size), str(row), precision="float16", max_bytes=LARGE)
    given_row = torch.tensor([row]) * 2.0**size
    store.add(["a"], store.encode(given_row))
    assert (store.read(["a"]) - given_row).abs().max() <= given_row.abs().max() / 2**11


def test_keeping_that_takes_longer_than_computing_ends_by_itself(
    images: Images, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    find = ActivationStore.find

    def slowly(store: ActivationStore, key: str) -> tuple[Tensor, Tensor]:
        time.sleep(0.2)
        return find(store, key)

    monkeypatch.setattr(ActivationStore, "find", slowly)
    monkeypatch.setattr("graft.cache.lack.TRIED", 1)
    caplog.set_level(logging.INFO, logger="graft.cache.lack")
    assert isinstance(evaluation_views(cut(images), images.train), ComputedViews)
    assert re.search(r"not kept: that takes .* ms an image, and computing", caplog.text)


def test_whether_keeping_pays_changes_nothing_but_the_time(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    light = loop(augmentation={"strength": "light"}, ema_decay=0.5)
    kept = run(images, light)
    monkeypatch.setenv("GRAFT_CACHE", os.environ["GRAFT_CACHE"] + "2")
    monkeypatch.setattr(
        "graft.inputs.frozen_views.fill", lambda lacks, *_: [lack.give_up("it is not asked for") for lack in lacks]
    )
    computed = run(images, light)
    assert difference(computed, kept) == 0
    assert computed.history == kept.history


# Several processes


def fill(place: str, digits: str) -> int:
    """Fill a store in a process of its own; returns how many views it had to compute."""
    os.environ["GRAFT_CACHE"] = place
    said = io.StringIO()
    paths = sorted(Path(digits).glob("*/*.png"))[:40]
    rows = pd.DataFrame({
        "path": [str(path.relative_to(digits)) for path in paths], "label": [path.parent.name for path in paths],
        "sha256": [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths],
    })  # fmt: skip
    logging.basicConfig(level=logging.INFO, stream=said)
    source = ImageSource(Path(digits), sorted(rows["label"].unique()), preprocessing(MODEL))
    network = build(MODEL, len(source.classes), seed=0).eval()
    views = evaluation_views(Cut(network, "features.12", loop(), source), rows)
    assert isinstance(views, StoredViews)
    assert joined(views).isfinite().all()
    return sum(map(int, re.findall(r"\((\d+) views", said.getvalue())))


def test_of_several_processes_one_computes_and_all_read(cache: Path, digits: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(3, mp_context=spawn) as pool:
        counts = list(pool.map(fill, [str(cache)] * 3, [str(digits)] * 3))
    assert sorted(counts) == [0, 0, 40]
