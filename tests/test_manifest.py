"""The manifest lists what is there, whatever the layout and the order on disk."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from graft.config import LimitsConfig
from graft.data import manifest as manifest_module
from graft.data import scan_index
from graft.data.inspection import Facts
from graft.data.manifest import COLUMNS, scan
from graft.data.workers import Task, inspect_all
from graft.errors import DataError


def test_a_folder_per_class(shapes: Path) -> None:
    manifest = scan(shapes)
    assert manifest.classes == ["blue", "red"]
    assert list(manifest.table.columns) == list(COLUMNS)
    first = manifest.table.iloc[0]
    assert (first["path"], first["width_px"], first["height_px"], first["format"]) == ("blue/0.png", 48, 40, "PNG")
    assert (manifest.table["error"] == "").all()


@pytest.mark.parametrize(
    "names", [("train", "val"), ("Training", "validation"), ("train", "valid", "test"), ("train",)]
)
def test_given_splits(shapes: Path, tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        shutil.copytree(shapes, tmp_path / "given" / name)
    manifest = scan(tmp_path / "given")
    known = {"Training": "train", "valid": "val", "validation": "val"}
    expected = dict.fromkeys([known.get(name, name) for name in names], 24)
    assert manifest.table["given_split"].value_counts().to_dict() == expected
    assert manifest.classes == ["blue", "red"]


def test_what_stands_beside_a_training_folder_is_no_class(shapes: Path, tmp_path: Path) -> None:
    shutil.copytree(shapes, tmp_path / "given" / "train")
    shutil.copytree(shapes / "red", tmp_path / "given" / "unlabelled" / "red")
    manifest = scan(tmp_path / "given")
    assert (manifest.classes, manifest.ignored["count"].tolist()) == (["blue", "red"], [12])
    (tmp_path / "given" / "train").rename(tmp_path / "given" / "val")
    shutil.rmtree(tmp_path / "given" / "unlabelled")
    assert set(scan(tmp_path / "given").table["given_split"]) == {"val"}


def test_a_class_may_be_called_train(shapes: Path) -> None:
    (shapes / "red").rename(shapes / "train")
    assert scan(shapes).classes == ["blue", "train"]


def test_a_class_may_be_called_test(shapes: Path) -> None:
    (shapes / "red").rename(shapes / "test")
    assert scan(shapes).classes == ["blue", "test"]
    assert set(scan(shapes).table["given_split"]) == {""}


def test_what_lies_outside_of_classes_and_splits_is_counted(shapes: Path, tmp_path: Path) -> None:
    for name in ("train", "val"):
        shutil.copytree(shapes, tmp_path / "given" / name)
    shutil.copytree(shapes / "red", tmp_path / "given" / "old")
    shutil.copy(shapes / "red" / "1.png", tmp_path / "given" / "train" / "1.png")
    shutil.copy(shapes / "red" / "1.png", tmp_path / "given" / "cover.png")
    ignored = scan(tmp_path / "given").ignored.set_index("reason")
    assert ignored["count"].to_dict() == {"files outside train, val": 13, "images in no class folder": 1}
    assert ignored.loc["images in no class folder", "examples"] == "train/1.png"


def test_folders_inside_a_class_belong_to_it(shapes: Path) -> None:
    (shapes / "red" / "more" / "deep").mkdir(parents=True)
    (shapes / "red" / "1.png").rename(shapes / "red" / "more" / "deep" / "1.PNG")
    table = scan(shapes).table.set_index("path")
    assert table.loc["red/more/deep/1.PNG", "label"] == "red"


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table(shapes: Path, suffix: str) -> None:
    table = pd.DataFrame(
        {
            "path": ["blue/1.png", "./red//2.png"],
            "label": ["no", "yes"],
            "split": ["train", "Val"],
            "group": ["x", None],
        }
    )
    place = shapes / f"images.{suffix}"
    table.to_csv(place, index=False) if suffix == "csv" else table.to_parquet(place)
    manifest = scan(place)
    assert manifest.table["label"].tolist() == ["no", "yes"]
    assert manifest.table["path"].tolist() == ["blue/1.png", "red/2.png"]
    assert manifest.table["given_split"].tolist() == ["train", "val"]
    assert manifest.table["given_group"].tolist() == ["x", ""]
    assert manifest.folder() == shapes


def test_a_table_may_name_files_anywhere_on_this_machine(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "images.csv").write_text(f"path,label\n{shapes}/blue/1.png,a\n../shapes/red/2.png,b\n")
    manifest = scan(tmp_path / "lists" / "images.csv")
    assert manifest.table["path"].tolist() == ["../shapes/red/2.png", f"{shapes}/blue/1.png"]
    assert (manifest.table["error"] == "").all()


@pytest.mark.parametrize("content", [b"", b"PAR1 no more", b"\xff\xfe\x00bad", b'path,label\n"a'])
def test_a_table_that_is_none_is_refused(shapes: Path, content: bytes) -> None:
    for name in ("images.csv", "images.parquet"):
        (shapes / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}: (cannot be read as a table|lacks the column)"):
            scan(shapes / name)


def test_a_table_with_rows_longer_than_its_head_is_refused(shapes: Path) -> None:
    (shapes / "images.csv").write_text("path,label\nblue/1.png,a,\nred/2.png,b,\n")
    with pytest.raises(DataError, match=r"images\.csv: cannot be read as a table .*header"):
        scan(shapes / "images.csv")


@pytest.mark.parametrize("head", ["Path, Label ,SPLIT", "path,label,split"])
def test_heads_of_columns_may_be_written_loosely(shapes: Path, head: str) -> None:
    (shapes / "images.csv").write_text(f"{head}\nblue/1.png,a,val\n")
    assert scan(shapes / "images.csv").table["given_split"].tolist() == ["val"]


def test_a_table_of_two_minds_is_refused(shapes: Path) -> None:
    (shapes / "images.csv").write_text("path,label,label\nblue/1.png,a,b\n")
    with pytest.raises(DataError, match="has the column label twice"):
        scan(shapes / "images.csv")
    pd.DataFrame({"path": ["blue/1.png"], "label": [["a"]]}).to_parquet(shapes / "images.parquet")
    with pytest.raises(DataError, match="the column label holds lists"):
        scan(shapes / "images.parquet")


def test_labels_of_numbers_are_as_they_are_written(shapes: Path) -> None:
    (shapes / "images.csv").write_text("path,label\nblue/1.png,01\nred/2.png,1\nred/3.png,nan\n")
    assert scan(shapes / "images.csv").classes == ["01", "1", "nan"]
    table = pd.DataFrame({"path": ["blue/1.png", "red/2.png"], "label": [1.0, 2.0], "group": [7.0, None]})
    table.index = pd.Index(["x", "y"])
    table.to_parquet(shapes / "images.parquet")
    found = scan(shapes / "images.parquet").table
    assert found["label"].tolist() == ["1", "2"]
    assert found["given_group"].tolist() == ["7", ""]


def test_an_impossible_path_is_an_image_that_cannot_be_read(shapes: Path) -> None:
    table = pd.DataFrame({"path": ["blue/1.png", "a\0b.png"], "label": ["a", "b"]})
    table.to_parquet(shapes / "images.parquet")
    assert scan(shapes / "images.parquet").table["error"].tolist() == [
        "has an impossible name (embedded null byte)",
        "",
    ]


def test_where_all_is_passed_over_the_reason_is_told(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for label in ("blue", "red"):
        (tmp_path / "data" / label).symlink_to(shapes / label)
    with pytest.raises(DataError, match=r"no images found \(2 links out of the folder passed over: blue, red\)"):
        scan(tmp_path / "data")


def test_folders_that_link_to_each_other_are_read_where_they_are_linked(shapes: Path) -> None:
    for number in range(12):
        (shapes / "red" / f"folder{number}").mkdir()
        shutil.copy(shapes / "red" / "1.png", shapes / "red" / f"folder{number}" / "1.png")
        for other in range(12):
            (shapes / "red" / f"folder{number}" / f"to{other}").symlink_to(f"../folder{other}")
    manifest = scan(shapes)
    assert len(manifest.table) == 24 + 12 + 12 * 11  # each linked folder where it is linked, and no further
    assert set(manifest.ignored["reason"]) == {"links in a circle", "links to folders in linked folders"}


def test_a_folder_that_two_classes_link_to_is_of_both(shapes: Path) -> None:
    (shapes / ".store").mkdir()
    shutil.copy(shapes / "red" / "1.png", shapes / ".store" / "x.png")
    for label in ("blue", "red"):
        (shapes / label / "more").symlink_to("../.store")
    assert {"blue/more/x.png", "red/more/x.png"} <= set(scan(shapes).table["path"])


def test_what_is_neither_folder_nor_table_is_refused(shapes: Path) -> None:
    with pytest.raises(DataError, match=r"1\.png: is neither a folder nor a CSV or Parquet file"):
        scan(shapes / "red" / "1.png")


def test_a_table_without_labels_is_refused(shapes: Path) -> None:
    (shapes / "images.csv").write_text("path\nblue/1.png\n")
    with pytest.raises(DataError, match="lacks the column label"):
        scan(shapes / "images.csv")


def test_a_table_with_gaps_is_refused_and_an_empty_split_is_none(shapes: Path) -> None:
    table = pd.DataFrame({"path": ["blue/1.png", "red/2.png"], "label": pd.Series(["no", None], dtype=object)})
    table.to_parquet(shapes / "images.parquet")
    with pytest.raises(DataError, match="row 2 has no label"):
        scan(shapes / "images.parquet")
    table.assign(label="x", split=pd.Series(["val", None], dtype=object)).to_parquet(shapes / "images.parquet")
    assert scan(shapes / "images.parquet").table["given_split"].tolist() == ["val", ""]


def test_an_unknown_split_is_refused(shapes: Path) -> None:
    (shapes / "images.csv").write_text("path,label,split\nblue/1.png,a,tarin\n")
    with pytest.raises(DataError, match="split holds 'tarin'"):
        scan(shapes / "images.csv")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images found"):
        scan(tmp_path)


def test_links_are_followed_inside_the_folder_only(shapes: Path, tmp_path: Path) -> None:
    shutil.copytree(shapes / "red", tmp_path / "elsewhere")
    (shapes / "green").symlink_to("red")
    (shapes / "white").symlink_to(tmp_path / "elsewhere")
    manifest = scan(shapes)
    assert manifest.classes == ["blue", "green", "red"]
    assert manifest.ignored.to_dict("records") == [
        {"reason": "links out of the folder", "count": 1, "examples": "white"}
    ]
    assert scan(shapes / "green" / "..").classes == manifest.classes


def test_a_root_that_is_itself_a_link_is_followed(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").symlink_to(shapes)
    assert len(scan(tmp_path / "photos").table) == 24


def test_a_damaged_file_is_listed_with_its_reason(shapes: Path) -> None:
    (shapes / "red" / "bad.png").write_bytes((shapes / "red" / "1.png").read_bytes()[:300])
    table = scan(shapes).table.set_index("path")
    assert "cannot be decoded" in str(table.loc["red/bad.png", "error"])
    assert table.loc["red/1.png", "error"] == ""


def test_a_file_of_the_table_that_is_not_there_is_listed_with_its_reason(shapes: Path) -> None:
    (shapes / "images.csv").write_text("path,label\nblue/1.png,a\ngone.png,a\n")
    assert scan(shapes / "images.csv").table["error"].tolist() == [
        "",
        "cannot be read (No such file or directory)",
    ]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that scans have opened."""
    opened: list[str] = []

    def noting(folder: Path, tasks: Sequence[Task], limits: LimitsConfig) -> Iterator[Facts | None]:
        opened.extend(path for path, _ in tasks)
        return inspect_all(folder, tasks, limits)

    monkeypatch.setattr(manifest_module, "inspect_all", noting)
    return opened


def settle() -> None:
    """Let every file be older than the two seconds in which a change could go unseen."""
    time.sleep(2.1)


def test_a_second_scan_reads_what_is_new_or_changed_and_nothing_else(shapes: Path, read: list[str]) -> None:
    settle()
    first = scan(shapes)
    assert len(read) == 24
    read.clear()
    pd.testing.assert_frame_equal(scan(shapes).table, first.table)
    assert read == []

    (shapes / "red" / "1.png").touch()
    shutil.copy(shapes / "red" / "3.png", shapes / "red" / "2.png")
    shutil.copy(shapes / "red" / "3.png", shapes / "red" / "new.png")
    (shapes / "red" / "4.png").unlink()
    third = scan(shapes)
    assert sorted(read) == ["red/1.png", "red/2.png", "red/new.png"]
    known = first.table.set_index("path")["sha256"]
    found = third.table.set_index("path")["sha256"]
    assert found["red/1.png"] == known["red/1.png"]
    assert found["red/2.png"] == found["red/new.png"] == known["red/3.png"]
    assert "red/4.png" not in found.index
    assert (third.table["width_px"] > 0).all()


def test_folders_that_change_places_are_read_again(shapes: Path, read: list[str]) -> None:
    for label in ("blue", "red"):
        for number in range(12):
            Image.new("RGB", (40, 40), (number, 40, 200 if label == "red" else 0)).save(
                shapes / label / f"{number}.png"
            )
            (shapes / label / f"{number}.png").rename(shapes / label / f"{number}.bmp")
    settle()
    before = scan(shapes).table.set_index("path")["sha256"]
    read.clear()
    (shapes / "red").rename(shapes / "x")
    (shapes / "blue").rename(shapes / "red")
    (shapes / "x").rename(shapes / "blue")
    after = scan(shapes).table.set_index("path")["sha256"]
    assert len(read) == 24
    assert after["red/1.bmp"] == before["blue/1.bmp"]


def test_a_scan_in_several_chunks_is_the_same(
    shapes: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = scan(shapes)
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(manifest_module, "CHUNK", 10)
    pd.testing.assert_frame_equal(scan(shapes).table, whole.table)


def test_other_limits_read_everything_again(shapes: Path, read: list[str]) -> None:
    settle()
    scan(shapes)
    strict = scan(shapes, LimitsConfig(max_pixels=48 * 45))
    assert len(read) == 48
    assert (strict.table["error"] != "").sum() == 12


def test_a_file_that_changed_just_now_is_not_trusted(shapes: Path, read: list[str]) -> None:
    scan(shapes)
    scan(shapes)
    assert len(read) == 48


def test_a_failure_that_may_pass_is_not_remembered(shapes: Path) -> None:
    (shapes / "red" / "gone.png").symlink_to("later.jpg")
    assert scan(shapes).table["error"].str.contains("link to nothing").sum() == 1
    shutil.copy(shapes / "red" / "1.png", shapes / "red" / "later.jpg")
    assert (scan(shapes).table["error"] == "").all()


@pytest.mark.parametrize("damage", ["torn", "foreign", "full", "read-only"])
def test_no_index_costs_time_only(
    shapes: Path, damage: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    first = scan(shapes)
    if damage == "torn":
        (index,) = (tmp_path / "cache" / "scans").iterdir()
        index.write_bytes(index.read_bytes()[:500])
    if damage == "foreign":
        (index,) = (tmp_path / "cache" / "scans").iterdir()
        first.table.drop(columns="phash").assign(stamp="x").to_parquet(index)
    if damage == "full":
        monkeypatch.setattr(
            scan_index, "write_whole", lambda *_: os.write(os.open("/dev/full", os.O_WRONLY), b"x")
        )
    if damage == "read-only":
        monkeypatch.setenv("GRAFT_CACHE", "/proc/nowhere")
    pd.testing.assert_frame_equal(scan(shapes).table, first.table)
    words = {
        "torn": "is damaged",
        "foreign": "is damaged",
        "full": "No space left on device",
        "read-only": "cannot be written",
    }
    assert words[damage] in caplog.text


def test_the_fingerprint_goes_by_content_not_by_place(shapes: Path, tmp_path: Path) -> None:
    before = scan(shapes).fingerprint
    shutil.copytree(shapes, tmp_path / "elsewhere")
    assert scan(tmp_path / "elsewhere").fingerprint == before
    shutil.copy(tmp_path / "elsewhere" / "red" / "1.png", tmp_path / "elsewhere" / "red" / "2.png")
    assert scan(tmp_path / "elsewhere").fingerprint != before
