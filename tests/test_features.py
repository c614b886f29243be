"""Cached features train the same model as images; their store is shared, limited in size and safe against damage."""

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

from graft.cache.tensor_store import CacheFullError
from graft.config.training import LoraConfig, TrainLoopConfig
from graft.evaluation.evaluate import evaluate, evaluate_split_model
from graft.features.feature_cache import cache_evaluation_features, cache_training_features, count_views, precompute
from graft.features.feature_store import FeatureStore
from graft.features.loaders import DatasetInfo, TrainingImages
from graft.features.sources import CachedFeatures, FeatureSource, RecomputedFeatures
from graft.features.split_model import SplitModel
from graft.models.backbones import build_model, preprocessing_for
from graft.models.stages import stage_names
from graft.training.batch_sources import BatchSources, FeatureBatches, ImageBatches
from graft.training.history import EpochMetrics, Phase
from graft.training.loop import TrainResult, train
from graft.training.trainer import Trainer

GRADUAL = Phase("finetune", 3, 1e-4, 0.5, (0, 1))
LARGE = 10**9


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def _always_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cache even if that is slower: features of the small test images may be computed faster than they are read."""
    monkeypatch.setattr("graft.cache.writer.BENCHMARK_BATCHES", None)


@pytest.fixture(scope="module")
def images(digits: Path) -> TrainingImages:
    """Four of each digit to train on, two to validate."""
    return few_digits(digits, 4, 2)


def train_config(**values: Any) -> TrainLoopConfig:  # noqa: ANN401
    return TrainLoopConfig.model_validate({"batch_size": 16, "augmentation": {"strength": "none"}} | values)


def split(images: TrainingImages, stage: str = "features.12", **values: Any) -> SplitModel:  # noqa: ANN401
    return SplitModel(build_model(MODEL, 10, seed=0).eval(), stage, train_config(**values), images.dataset)


def run(images: TrainingImages, train_config: TrainLoopConfig, phase: Phase = GRADUAL) -> TrainResult:
    start = TrainResult(build_model(MODEL, 10, seed=0))
    return train(start, phase, train_config, images, seed=0, on_epoch_end=ignore)


def ignore(_: Phase, __: int, ___: EpochMetrics) -> None:
    pass


def first_views(source: FeatureSource) -> Tensor:
    """The features of each image's first view."""
    return torch.cat(list(source.in_order(7)))


def segments(cache: Path) -> list[Path]:
    return sorted(cache.glob("tensors/*/*.safetensors"))


def max_difference(result: TrainResult, other: TrainResult) -> float:
    """The largest difference of any weight, relative for weights above 1."""
    pairs = zip(result.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return max(float(((a - b).abs() / b.abs().clamp(min=1)).max()) for a, b in pairs)


# Cached features train the same model


def test_cached_features_train_the_same_weights_as_images(images: TrainingImages, cache: Path) -> None:
    cached = run(images, train_config(cache={"precision": "float32"}))
    assert segments(cache)
    uncached = run(images, train_config(cache={"max_gb": 0}))
    assert max_difference(cached, uncached) < 1e-5
    assert max_difference(cached, TrainResult(build_model(MODEL, 10, seed=0))) > 1e-4


def test_half_precision_features_train_nearly_the_same_weights(images: TrainingImages) -> None:
    assert max_difference(run(images, train_config()), run(images, train_config(cache={"max_gb": 0}))) < 1e-2


def test_cached_features_give_the_same_validation_loss_of_the_weight_average(images: TrainingImages) -> None:
    cached, uncached = (
        run(images, train_config(ema_decay=0.5, cache=values)) for values in ({"precision": "float32"}, {"max_gb": 0})
    )
    assert [epoch.val_loss for epoch in cached.history] == pytest.approx([epoch.val_loss for epoch in uncached.history])


def test_full_store_trains_the_same_weights_as_an_empty_one(images: TrainingImages, cache: Path) -> None:
    augmented = train_config(augmentation={"strength": "light"})
    expected = run(images, augmented)
    for path in (cache / "training").iterdir():
        path.unlink()
    content = {path: path.read_bytes() for path in segments(cache)}
    assert max_difference(run(images, augmented), expected) == 0
    assert {path: path.read_bytes() for path in segments(cache)} == content


def test_missing_features_are_rounded_as_if_all_were_computed_at_once(images: TrainingImages, cache: Path) -> None:
    records = images.train
    expected = first_views(cache_evaluation_features(split(images), records))
    for path in segments(cache):
        path.unlink()
    cache_evaluation_features(split(images), records.iloc[3:7])  # as if a fold had been first
    assert torch.equal(first_views(cache_evaluation_features(split(images), records)), expected)


def test_views_are_augmented_differently_and_repeat_over_epochs(images: TrainingImages) -> None:
    light = split(images, augmentation={"strength": "light"}, cache={"views": 3})
    source = cache_training_features(light, images.train, epochs=9)
    assert isinstance(source, CachedFeatures)
    assert source.views == 3
    first, second, fourth = (source.read([(0, number)]) for number in (0, 1, 3))
    assert not torch.equal(first, second)
    assert torch.equal(first, fourth)
    assert cache_training_features(light, images.train, epochs=2).views == 2


@pytest.mark.parametrize(
    ("strength", "head_views", "count"), [("light", "auto", 1), ("strong", "auto", 3), ("light", 2, 2), ("none", 2, 1)]
)
def test_head_has_views_of_its_own(images: TrainingImages, strength: str, head_views: int | str, count: int) -> None:
    values = {"augmentation": {"strength": strength}, "cache": {"views": 3, "head_views": head_views}}
    assert count_views(split(images, "head", **values), epochs=9) == count
    assert count_views(split(images, "features.12", **values), epochs=9) == (1 if strength == "none" else 3)


def test_head_is_trained_on_the_features_that_evaluation_reads(
    images: TrainingImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    light = split(images, "head", augmentation={"strength": "light"})
    evaluated = cache_evaluation_features(light, images.train)
    monkeypatch.setattr("graft.features.feature_cache._compute", fail_on_second_computation)
    trained = cache_training_features(light, images.train, epochs=9)
    assert torch.equal(next(trained.in_order(8)), next(evaluated.in_order(8)))


def test_precompute_fills_the_cache_for_all_phases_and_folds(
    images: TrainingImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    light = {"augmentation": {"strength": "light"}, "ema_decay": 0.9}
    expected = run(images, train_config(**light))
    monkeypatch.setenv("GRAFT_CACHE", os.environ["GRAFT_CACHE"] + "2")
    names = stage_names(build_model(MODEL, 10, seed=0))
    tested = {GRADUAL.first_trainable_stage(names)}
    precompute(split(images, "head", **light), images, GRADUAL.split_stages(names), tested)
    monkeypatch.setattr("graft.features.feature_cache._compute", fail_on_second_computation)
    assert max_difference(run(images, train_config(**light)), expected) == 0


def fail_on_second_computation(*_: object) -> None:
    raise AssertionError("something was computed twice")


def test_split_stages_move_toward_the_input_as_stages_are_unfrozen() -> None:
    names = ["a", "b", "c", "head"]
    assert Phase("finetune", 5, 1e-3, unfreeze_epochs=(1, 1, 3)).split_stages(names) == {"head": 5, "b": 4, "a": 2}
    assert Phase("warmup", 4, 1e-3).split_stages(names) == {"head": 4}


def test_features_of_a_renamed_image_or_another_fold_are_not_computed_again(
    images: TrainingImages, caplog: pytest.LogCaptureFixture
) -> None:
    cache_evaluation_features(split(images), images.train)
    caplog.set_level(logging.INFO, logger="graft.features.feature_cache")
    caplog.clear()
    cache_evaluation_features(split(images), images.train.sample(frac=0.5, random_state=0).assign(path="elsewhere.png"))
    assert not caplog.messages


@pytest.mark.parametrize("stage", ["head", "features.12"])
def test_evaluation_of_cached_features_gives_the_same_predictions(images: TrainingImages, stage: str) -> None:
    split_model = split(images, stage, cache={"precision": "float32"})
    cached = evaluate_split_model(split_model, images.validation)
    uncached = evaluate(split_model.model, images.dataset, images.validation)
    assert cached.logits == pytest.approx(uncached.logits, abs=1e-5)
    assert cached.paths == uncached.paths
    assert (cached.labels == uncached.labels).all()


@pytest.mark.parametrize(
    "values", [{"sampling": "balanced"}, {"batch_norm": "all_frozen"}, {"optimizer": {"name": "sgd"}}]
)
def test_cached_features_train_the_same_weights_with_every_setting(
    images: TrainingImages, values: dict[str, Any]
) -> None:
    cached = run(images, train_config(cache={"precision": "float32"}, **values))
    assert max_difference(cached, run(images, train_config(cache={"max_gb": 0}, **values))) < 1e-5


def test_cached_features_train_the_same_lora_adapters(images: TrainingImages) -> None:
    phase = replace(GRADUAL, lora=LoraConfig(rank=2))
    cached = run(images, train_config(cache={"precision": "float32"}), phase)
    uncached = run(images, train_config(cache={"max_gb": 0}), phase)
    assert max_difference(cached, uncached) < 1e-5


def test_mixup_is_applied_to_cached_features(images: TrainingImages) -> None:
    mixed = train_config(augmentation={"strength": "none", "mixup_alpha": 0.4})
    for phase in (GRADUAL, Phase("warmup", 1, 1e-3)):
        assert max_difference(run(images, mixed, phase), run(images, train_config(), phase)) > 1e-5


def test_features_of_other_frozen_weights_are_stored_separately(images: TrainingImages) -> None:
    split_model, other = split(images), split(images)
    with torch.no_grad():
        other.model.get_parameter("features.3.block.0.0.weight").mul_(2)
    features = first_views(cache_evaluation_features(split_model, images.validation))
    assert not torch.equal(first_views(cache_evaluation_features(other, images.validation)), features)


@pytest.mark.parametrize(
    "values",
    [
        {"cache": {"max_gb": 0}},
        {"batch_norm": "adapt"},
        {"augmentation": {"cutmix_alpha": 1.0}},
        {"compute": {"compile": True}},
    ],
)
def test_training_uses_images_if_features_vary_between_epochs(images: TrainingImages, values: dict[str, Any]) -> None:
    for overrides, source_type in (({}, FeatureBatches), (values, ImageBatches)):
        config = train_config(**overrides)
        trainer = Trainer(build_model(MODEL, 10, seed=0), GRADUAL, config, 3, 0)
        assert isinstance(BatchSources(images, GRADUAL, config, 0).prepare(trainer), source_type)


# The store, and damage to it


def open_store() -> FeatureStore:
    return FeatureStore("a test", precision="float16", max_bytes=LARGE)


def features_of(keys: str) -> Tensor:
    return torch.tensor([[ord(key), 0.5] for key in keys])


def write(store: FeatureStore, keys: str, features: Tensor) -> None:
    store.add(list(keys), store.encode(features))


def fill_store(keys: str = "abcd") -> None:
    write(open_store(), keys, features_of(keys))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the size of mapped files from Linux")
def test_feature_store_does_not_hold_written_features_in_memory() -> None:
    def mapped_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[2]) * os.sysconf("SC_PAGE_SIZE")

    store, keys, features = open_store(), [str(number) for number in range(64)], torch.rand(64, 2**18)
    encoded, before = store.encode(features), mapped_bytes()
    store.add(keys, encoded)
    assert mapped_bytes() - before < 16e6
    assert torch.allclose(store.read(keys), features, atol=1e-3)
    assert mapped_bytes() - before > 32e6


def test_feature_store_reads_features_that_another_one_wrote() -> None:
    fill_store()
    store = open_store()
    assert store.missing(list("dxa")) == ["x"]
    assert torch.equal(store.read(["d", "a"]), features_of("da"))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_feature_store_never_reads_wrong_values_from_a_damaged_segment(cache: Path, data: st.DataObject) -> None:
    for path in segments(cache):
        path.unlink()
    fill_store()
    (path,) = segments(cache)
    content = bytearray(path.read_bytes())
    damage = data.draw(st.sampled_from(["truncated", "flipped", "edited header", "random"]))
    position = data.draw(st.integers(0, len(content) - 1))
    if damage == "truncated":
        content = content[:position]
    elif damage == "flipped":
        content[position] ^= data.draw(st.integers(1, 255))
    elif damage == "edited header":
        old, new = data.draw(st.sampled_from([(b'\\"d\\"', b'\\"a\\"'), (b"F16", b"I16"), (b"[4,1]", b"[2,2]")]))
        assert old in content
        content = content.replace(old, new)
    else:
        content = bytearray(data.draw(st.binary(max_size=100)))
    path.write_bytes(content)
    store = open_store()
    valid = [key for key in "abcd" if key not in store.missing(list("abcd"))]
    assert all(torch.equal(store.read([key]), features_of(key)) for key in valid)


def test_damaged_features_are_computed_again_in_training(
    images: TrainingImages, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = run(images, train_config())
    for path in (cache / "training").iterdir():
        path.unlink()
    for path in segments(cache):
        content = bytearray(path.read_bytes())
        content[-100] ^= 255
        path.write_bytes(content)
    assert max_difference(run(images, train_config()), expected) == 0
    assert any("is damaged" in message or "cannot be read" in message for message in caplog.messages)


# Limited size


def test_feature_store_evicts_least_recently_used_segment(cache: Path) -> None:
    for age, keys in enumerate(("ab", "cd", "ef")):
        fill_store(keys)
        newest = max(segments(cache), key=lambda path: path.stat().st_ctime_ns)
        os.utime(newest, (1000 - 100 * age, 1000 - 100 * age))
    assert open_store().missing(["e"]) == []  # marks its segment as used
    size = segments(cache)[0].stat().st_size
    write(FeatureStore("another", precision="float16", max_bytes=2 * size + 100), "xy", features_of("xy"))
    assert open_store().missing(list("abcdef")) == list("cd")


def test_feature_store_does_not_evict_recently_used_segment(cache: Path) -> None:
    fill_store()
    before = segments(cache)
    store = FeatureStore("another", precision="float16", max_bytes=800)
    with pytest.raises(CacheFullError, match=r"training.cache.max_gb allows .*; raise it, or lower"):
        write(store, "xyz", torch.ones(3, 100))
    assert segments(cache) == before
    os.utime(before[0], (1000, 1000))
    write(store, "xyz", torch.ones(3, 100))
    assert before[0] not in segments(cache)


def test_feature_store_evicts_partial_files_of_killed_processes(cache: Path) -> None:
    fill_store()
    partial = segments(cache)[0].with_name(".partial.safetensors.x1y2")
    partial.write_bytes(bytes(10_000))
    os.utime(partial, (1000, 1000))
    write(FeatureStore("another", precision="float16", max_bytes=5000), "x", torch.ones(1, 2))
    assert not partial.exists()


def test_segment_has_the_permissions_of_any_new_file(cache: Path) -> None:
    fill_store()
    (cache / "plain").touch()
    assert segments(cache)[0].stat().st_mode == (cache / "plain").stat().st_mode


def test_feature_store_reads_from_a_read_only_folder(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_store()

    def fail(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(Path, "touch", fail)
    store = open_store()
    assert store.missing(list("abcd")) == []
    assert segments(cache)


def test_missing_may_be_called_repeatedly() -> None:
    fill_store()
    store = open_store()
    assert store.missing(["a"]) == []
    assert store.missing(["b"]) == []


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), PermissionError("read-only")])
def test_training_does_not_change_without_writable_cache(
    images: TrainingImages, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: OSError
) -> None:
    light = train_config(augmentation={"strength": "light"}, cache={"views": 2}, batch_size=24)
    expected = run(images, light)
    monkeypatch.setenv("GRAFT_CACHE", os.environ["GRAFT_CACHE"] + "2")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("graft.cache.tensor_store.write_atomically", fail)
    assert max_difference(run(images, light), expected) == 0
    assert any("computed again each time, not cached" in message for message in caplog.messages)


def test_features_are_not_cached_if_not_all_fit(
    images: TrainingImages, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = cache_evaluation_features(split(images, cache={"max_gb": 1e-6}), images.train)
    assert isinstance(source, RecomputedFeatures)
    assert "raise it, or lower training.cache.views" in caplog.text
    assert not segments(cache)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(exponent=st.integers(-120, 120), values=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=9))
def test_half_precision_rounds_relative_to_the_largest_value_of_each_feature(
    exponent: int, values: list[float]
) -> None:
    store = FeatureStore(str(exponent), str(values), precision="float16", max_bytes=LARGE)
    features = torch.tensor([values]) * 2.0**exponent
    store.add(["a"], store.encode(features))
    assert (store.read(["a"]) - features).abs().max() <= features.abs().max() / 2**11


def test_features_are_not_cached_if_reading_is_slower_than_computing(
    images: TrainingImages, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    get = FeatureStore.get

    def slow_get(store: FeatureStore, key: str) -> tuple[Tensor, Tensor]:
        time.sleep(0.2)
        return get(store, key)

    monkeypatch.setattr(FeatureStore, "get", slow_get)
    monkeypatch.setattr("graft.cache.writer.BENCHMARK_BATCHES", 1)
    caplog.set_level(logging.INFO, logger="graft.cache.writer")
    assert isinstance(cache_evaluation_features(split(images), images.train), RecomputedFeatures)
    assert re.search(r"not cached: caching takes .* ms an image, computing", caplog.text)


def test_recomputed_features_train_the_same_weights_as_cached_ones(
    images: TrainingImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    light = train_config(augmentation={"strength": "light"}, ema_decay=0.5)
    cached = run(images, light)
    monkeypatch.setenv("GRAFT_CACHE", os.environ["GRAFT_CACHE"] + "2")
    monkeypatch.setattr(
        "graft.features.feature_cache.fill_missing",
        lambda writers, _: [writer.disable("disabled by a test") for writer in writers],
    )
    recomputed = run(images, light)
    assert max_difference(recomputed, cached) == 0
    assert recomputed.history == cached.history


# Several processes


def cache_in_this_process(cache: str, digits: str) -> int:
    """Fill a store, in a process started for it; returns the number of views that it computed."""
    os.environ["GRAFT_CACHE"] = cache
    log = io.StringIO()
    paths = sorted(Path(digits).glob("*/*.png"))[:40]
    records = pd.DataFrame({
        "path": [str(path.relative_to(digits)) for path in paths], "label": [path.parent.name for path in paths],
        "sha256": [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths],
    })  # fmt: skip
    logging.basicConfig(level=logging.INFO, stream=log)
    dataset = DatasetInfo(Path(digits), sorted(records["label"].unique()), preprocessing_for(MODEL))
    model = build_model(MODEL, len(dataset.classes), seed=0).eval()
    source = cache_evaluation_features(SplitModel(model, "features.12", train_config(), dataset), records)
    assert isinstance(source, CachedFeatures)
    assert first_views(source).isfinite().all()
    return sum(map(int, re.findall(r"\((\d+) views", log.getvalue())))


def test_several_processes_compute_missing_features_once(cache: Path, digits: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(3, mp_context=spawn) as pool:
        counts = list(pool.map(cache_in_this_process, [str(cache)] * 3, [str(digits)] * 3))
    assert sorted(counts) == [0, 0, 40]
