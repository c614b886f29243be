"""Scanning: layouts, tables, links, errors of single files, and the index of earlier scans."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from graft.config.parameters import LimitsConfig
from graft.data import manifest as manifest_module
from graft.data import scan_index
from graft.data.inspection import ImageStats
from graft.data.manifest import COLUMNS, scan
from graft.data.workers import InspectionTask, inspect_all
from graft.errors import DataError


def test_scan_reads_one_folder_per_class(shapes: Path) -> None:
    manifest = scan(shapes)
    assert manifest.classes == ["blue", "red"]
    assert list(manifest.table.columns) == list(COLUMNS)
    first = manifest.table.iloc[0]
    assert (first["path"], first["width_px"], first["height_px"], first["format"]) == ("blue/0.png", 48, 40, "PNG")
    assert (manifest.table["error"] == "").all()


@pytest.mark.parametrize(
    "names", [("train", "val"), ("Training", "validation"), ("train", "valid", "test"), ("train",)]
)
def test_scan_reads_split_folders(shapes: Path, tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        shutil.copytree(shapes, tmp_path / "splits" / name)
    manifest = scan(tmp_path / "splits")
    aliases = {"Training": "train", "valid": "val", "validation": "val"}
    expected = dict.fromkeys([aliases.get(name, name) for name in names], 24)
    assert manifest.table["given_split"].value_counts().to_dict() == expected
    assert manifest.classes == ["blue", "red"]


def test_folder_beside_train_is_skipped(shapes: Path, tmp_path: Path) -> None:
    shutil.copytree(shapes, tmp_path / "splits" / "train")
    shutil.copytree(shapes / "red", tmp_path / "splits" / "unlabelled" / "red")
    manifest = scan(tmp_path / "splits")
    assert (manifest.classes, manifest.skipped["count"].tolist()) == (["blue", "red"], [12])
    (tmp_path / "splits" / "train").rename(tmp_path / "splits" / "val")
    shutil.rmtree(tmp_path / "splits" / "unlabelled")
    assert set(scan(tmp_path / "splits").table["given_split"]) == {"val"}


def test_class_may_be_named_train(shapes: Path) -> None:
    (shapes / "red").rename(shapes / "train")
    assert scan(shapes).classes == ["blue", "train"]


def test_class_may_be_named_test(shapes: Path) -> None:
    (shapes / "red").rename(shapes / "test")
    assert scan(shapes).classes == ["blue", "test"]
    assert set(scan(shapes).table["given_split"]) == {""}


def test_images_outside_classes_and_splits_are_counted_as_skipped(shapes: Path, tmp_path: Path) -> None:
    for name in ("train", "val"):
        shutil.copytree(shapes, tmp_path / "splits" / name)
    shutil.copytree(shapes / "red", tmp_path / "splits" / "old")
    shutil.copy(shapes / "red" / "1.png", tmp_path / "splits" / "train" / "1.png")
    shutil.copy(shapes / "red" / "1.png", tmp_path / "splits" / "cover.png")
    skipped = scan(tmp_path / "splits").skipped.set_index("reason")
    assert skipped["count"].to_dict() == {"files outside train, val": 13, "images outside class folders": 1}
    assert skipped.loc["images outside class folders", "examples"] == "train/1.png"


def test_subfolders_of_a_class_belong_to_it(shapes: Path) -> None:
    (shapes / "red" / "more" / "deep").mkdir(parents=True)
    (shapes / "red" / "1.png").rename(shapes / "red" / "more" / "deep" / "1.PNG")
    table = scan(shapes).table.set_index("path")
    assert table.loc["red/more/deep/1.PNG", "label"] == "red"


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_scan_reads_table(shapes: Path, suffix: str) -> None:
    table = pd.DataFrame(
        {
            "path": ["blue/1.png", "./red//2.png"],
            "label": ["no", "yes"],
            "split": ["train", "Val"],
            "group": ["x", None],
        }
    )
    path = shapes / f"images.{suffix}"
    table.to_csv(path, index=False) if suffix == "csv" else table.to_parquet(path)
    manifest = scan(path)
    assert manifest.table["label"].tolist() == ["no", "yes"]
    assert manifest.table["path"].tolist() == ["blue/1.png", "red/2.png"]
    assert manifest.table["given_split"].tolist() == ["train", "val"]
    assert manifest.table["given_group"].tolist() == ["x", ""]
    assert manifest.folder() == shapes


def test_table_may_name_files_outside_its_folder(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "images.csv").write_text(f"path,label\n{shapes}/blue/1.png,a\n../shapes/red/2.png,b\n")
    manifest = scan(tmp_path / "lists" / "images.csv")
    assert manifest.table["path"].tolist() == ["../shapes/red/2.png", f"{shapes}/blue/1.png"]
    assert (manifest.table["error"] == "").all()


@pytest.mark.parametrize("content", [b"", b"PAR1 no more", b"\xff\xfe\x00bad", b'path,label\n"a'])
def test_damaged_table_is_rejected(shapes: Path, content: bytes) -> None:
    for name in ("images.csv", "images.parquet"):
        (shapes / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}: (cannot be read as a table|lacks the column)"):
            scan(shapes / name)


def test_table_with_rows_longer_than_header_is_rejected(shapes: Path) -> None:
    (shapes / "images.csv").write_text("path,label\nblue/1.png,a,\nred/2.png,b,\n")
    with pytest.raises(DataError, match=r"images\.csv: cannot be read as a table .*header"):
        scan(shapes / "images.csv")


@pytest.mark.parametrize("header", ["Path, Label ,SPLIT", "path,label,split"])
def test_table_header_ignores_case_and_spaces(shapes: Path, header: str) -> None:
    (shapes / "images.csv").write_text(f"{header}\nblue/1.png,a,val\n")
    assert scan(shapes / "images.csv").table["given_split"].tolist() == ["val"]


def test_table_with_repeated_column_or_lists_is_rejected(shapes: Path) -> None:
    (shapes / "images.csv").write_text("path,label,label\nblue/1.png,a,b\n")
    with pytest.raises(DataError, match="has the column label twice"):
        scan(shapes / "images.csv")
    pd.DataFrame({"path": ["blue/1.png"], "label": [["a"]]}).to_parquet(shapes / "images.parquet")
    with pytest.raises(DataError, match="the column label holds lists"):
        scan(shapes / "images.parquet")


def test_numeric_labels_keep_their_spelling(shapes: Path) -> None:
    (shapes / "images.csv").write_text("path,label\nblue/1.png,01\nred/2.png,1\nred/3.png,nan\n")
    assert scan(shapes / "images.csv").classes == ["01", "1", "nan"]
    table = pd.DataFrame({"path": ["blue/1.png", "red/2.png"], "label": [1.0, 2.0], "group": [7.0, None]})
    table.index = pd.Index(["x", "y"])
    table.to_parquet(shapes / "images.parquet")
    scanned = scan(shapes / "images.parquet").table
    assert scanned["label"].tolist() == ["1", "2"]
    assert scanned["given_group"].tolist() == ["7", ""]


def test_invalid_path_in_table_becomes_error_of_image(shapes: Path) -> None:
    table = pd.DataFrame({"path": ["blue/1.png", "a\0b.png"], "label": ["a", "b"]})
    table.to_parquet(shapes / "images.parquet")
    assert scan(shapes / "images.parquet").table["error"].tolist() == [
        "has an invalid name (embedded null byte)",
        "",
    ]


def test_scan_error_names_reason_when_everything_is_skipped(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for label in ("blue", "red"):
        (tmp_path / "data" / label).symlink_to(shapes / label)
    with pytest.raises(DataError, match=r"no images found \(2 links out of the folder skipped: blue, red\)"):
        scan(tmp_path / "data")


def test_mutually_linked_folders_are_followed_once(shapes: Path) -> None:
    for number in range(12):
        (shapes / "red" / f"folder{number}").mkdir()
        shutil.copy(shapes / "red" / "1.png", shapes / "red" / f"folder{number}" / "1.png")
        for other in range(12):
            (shapes / "red" / f"folder{number}" / f"to{other}").symlink_to(f"../folder{other}")
    manifest = scan(shapes)
    assert len(manifest.table) == 24 + 12 + 12 * 11  # links are followed once, not again inside a linked folder
    assert set(manifest.skipped["reason"]) == {"circular links", "links to folders in linked folders"}


def test_folder_linked_from_two_classes_belongs_to_both(shapes: Path) -> None:
    (shapes / ".store").mkdir()
    shutil.copy(shapes / "red" / "1.png", shapes / ".store" / "x.png")
    for label in ("blue", "red"):
        (shapes / label / "more").symlink_to("../.store")
    assert {"blue/more/x.png", "red/more/x.png"} <= set(scan(shapes).table["path"])


def test_scan_rejects_root_that_is_neither_folder_nor_table(shapes: Path) -> None:
    with pytest.raises(DataError, match=r"1\.png: is neither a folder nor a CSV or Parquet file"):
        scan(shapes / "red" / "1.png")


def test_table_without_label_column_is_rejected(shapes: Path) -> None:
    (shapes / "images.csv").write_text("path\nblue/1.png\n")
    with pytest.raises(DataError, match="lacks the column label"):
        scan(shapes / "images.csv")


def test_table_with_missing_label_is_rejected_but_empty_split_is_allowed(shapes: Path) -> None:
    table = pd.DataFrame({"path": ["blue/1.png", "red/2.png"], "label": pd.Series(["no", None], dtype=object)})
    table.to_parquet(shapes / "images.parquet")
    with pytest.raises(DataError, match="row 2 has no label"):
        scan(shapes / "images.parquet")
    table.assign(label="x", split=pd.Series(["val", None], dtype=object)).to_parquet(shapes / "images.parquet")
    assert scan(shapes / "images.parquet").table["given_split"].tolist() == ["val", ""]


def test_unknown_split_is_rejected(shapes: Path) -> None:
    (shapes / "images.csv").write_text("path,label,split\nblue/1.png,a,tarin\n")
    with pytest.raises(DataError, match="split holds 'tarin'"):
        scan(shapes / "images.csv")


def test_empty_folder_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images found"):
        scan(tmp_path)


def test_links_are_followed_only_inside_the_root(shapes: Path, tmp_path: Path) -> None:
    shutil.copytree(shapes / "red", tmp_path / "other")
    (shapes / "green").symlink_to("red")
    (shapes / "white").symlink_to(tmp_path / "other")
    manifest = scan(shapes)
    assert manifest.classes == ["blue", "green", "red"]
    assert manifest.skipped.to_dict("records") == [
        {"reason": "links out of the folder", "count": 1, "examples": "white"}
    ]
    assert scan(shapes / "green" / "..").classes == manifest.classes


def test_root_may_be_a_link(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").symlink_to(shapes)
    assert len(scan(tmp_path / "photos").table) == 24


def test_damaged_file_is_listed_with_its_error(shapes: Path) -> None:
    (shapes / "red" / "bad.png").write_bytes((shapes / "red" / "1.png").read_bytes()[:300])
    table = scan(shapes).table.set_index("path")
    assert "cannot be decoded" in str(table.loc["red/bad.png", "error"])
    assert table.loc["red/1.png", "error"] == ""


def test_missing_file_of_table_is_listed_with_its_error(shapes: Path) -> None:
    (shapes / "images.csv").write_text("path,label\nblue/1.png,a\ngone.png,a\n")
    assert scan(shapes / "images.csv").table["error"].tolist() == [
        "",
        "does not exist",
    ]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that scans have opened."""
    opened: list[str] = []

    def recording(folder: Path, tasks: Sequence[InspectionTask], limits: LimitsConfig) -> Iterator[ImageStats | None]:
        opened.extend(path for path, _ in tasks)
        return inspect_all(folder, tasks, limits)

    monkeypatch.setattr(manifest_module, "inspect_all", recording)
    return opened


def wait_until_stamps_are_trusted() -> None:
    """Let every file become older than two seconds: a newer one could change again with the same stamp."""
    time.sleep(2.1)


def test_second_scan_reads_only_new_and_changed_files(shapes: Path, opened: list[str]) -> None:
    wait_until_stamps_are_trusted()
    first = scan(shapes)
    assert len(opened) == 24
    opened.clear()
    pd.testing.assert_frame_equal(scan(shapes).table, first.table)
    assert opened == []

    (shapes / "red" / "1.png").touch()
    shutil.copy(shapes / "red" / "3.png", shapes / "red" / "2.png")
    shutil.copy(shapes / "red" / "3.png", shapes / "red" / "new.png")
    (shapes / "red" / "4.png").unlink()
    third = scan(shapes)
    assert sorted(opened) == ["red/1.png", "red/2.png", "red/new.png"]
    before = first.table.set_index("path")["sha256"]
    after = third.table.set_index("path")["sha256"]
    assert after["red/1.png"] == before["red/1.png"]
    assert after["red/2.png"] == after["red/new.png"] == before["red/3.png"]
    assert "red/4.png" not in after.index
    assert (third.table["width_px"] > 0).all()


def test_swapped_folders_are_read_again(shapes: Path, opened: list[str]) -> None:
    for label in ("blue", "red"):
        for number in range(12):
            Image.new("RGB", (40, 40), (number, 40, 200 if label == "red" else 0)).save(
                shapes / label / f"{number}.png"
            )
            (shapes / label / f"{number}.png").rename(shapes / label / f"{number}.bmp")
    wait_until_stamps_are_trusted()
    before = scan(shapes).table.set_index("path")["sha256"]
    opened.clear()
    (shapes / "red").rename(shapes / "temporary")
    (shapes / "blue").rename(shapes / "red")
    (shapes / "temporary").rename(shapes / "blue")
    after = scan(shapes).table.set_index("path")["sha256"]
    assert len(opened) == 24
    assert after["red/1.bmp"] == before["blue/1.bmp"]


def test_scan_result_is_independent_of_chunk_size(
    shapes: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = scan(shapes)
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(manifest_module, "CHUNK", 10)
    pd.testing.assert_frame_equal(scan(shapes).table, whole.table)


def test_changed_limits_read_everything_again(shapes: Path, opened: list[str]) -> None:
    wait_until_stamps_are_trusted()
    scan(shapes)
    strict = scan(shapes, LimitsConfig(max_pixels=48 * 45))
    assert len(opened) == 48
    assert (strict.table["error"] != "").sum() == 12


def test_recently_changed_file_is_read_again(shapes: Path, opened: list[str]) -> None:
    scan(shapes)
    scan(shapes)
    assert len(opened) == 48


def test_broken_link_is_checked_again_by_next_scan(shapes: Path) -> None:
    (shapes / "red" / "gone.png").symlink_to("later.jpg")
    assert scan(shapes).table["error"].str.contains("broken link").sum() == 1
    shutil.copy(shapes / "red" / "1.png", shapes / "red" / "later.jpg")
    assert (scan(shapes).table["error"] == "").all()


@pytest.mark.parametrize("damage", ["truncated", "other columns", "full disk", "read-only"])
def test_unusable_scan_index_does_not_change_result(
    shapes: Path, damage: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    first = scan(shapes)
    if damage == "truncated":
        (index,) = (tmp_path / "cache" / "scans").iterdir()
        index.write_bytes(index.read_bytes()[:500])
    if damage == "other columns":
        (index,) = (tmp_path / "cache" / "scans").iterdir()
        first.table.drop(columns="phash").assign(stamp="x").to_parquet(index)
    if damage == "full disk":
        monkeypatch.setattr(
            scan_index, "write_atomically", lambda *_: os.write(os.open("/dev/full", os.O_WRONLY), b"x")
        )
    if damage == "read-only":
        monkeypatch.setenv("GRAFT_CACHE", "/proc/nowhere")
    pd.testing.assert_frame_equal(scan(shapes).table, first.table)
    messages = {
        "truncated": "is damaged",
        "other columns": "is damaged",
        "full disk": "No space left on device",
        "read-only": "cannot be written",
    }
    assert messages[damage] in caplog.text


def test_fingerprint_depends_on_content_not_on_location(shapes: Path, tmp_path: Path) -> None:
    before = scan(shapes).fingerprint
    shutil.copytree(shapes, tmp_path / "other")
    assert scan(tmp_path / "other").fingerprint == before
    shutil.copy(tmp_path / "other" / "red" / "1.png", tmp_path / "other" / "red" / "2.png")
    assert scan(tmp_path / "other").fingerprint != before
