"""The manifest lists what is there, whatever the layout and the order on disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from graft.errors import DataError
from graft.manifest import COLUMNS, scan


def test_a_folder_per_class(shapes: Path) -> None:
    manifest = scan(shapes)
    assert manifest.classes == ["blue", "red"]
    assert list(manifest.table.columns) == list(COLUMNS)
    first = manifest.table.iloc[0]
    assert (first["path"], first["width_px"], first["height_px"], first["format"]) == ("blue/0.png", 48, 40, "PNG")
    assert (manifest.table["error"] == "").all()


def test_train_and_val(shapes: Path) -> None:
    shutil.copytree(shapes, shapes / "train")
    shutil.copytree(shapes / "train", shapes / "val")
    for label in ("blue", "red"):
        shutil.rmtree(shapes / label)
    assert scan(shapes).table["given_split"].value_counts().to_dict() == {"train": 24, "val": 24}
    assert scan(shapes).classes == ["blue", "red"]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table(shapes: Path, suffix: str) -> None:
    table = pd.DataFrame({"path": ["blue/1.png", "red/2.png"], "label": ["no", "yes"], "split": ["train", "val"]})
    place = shapes / f"images.{suffix}"
    table.to_csv(place, index=False) if suffix == "csv" else table.to_parquet(place)
    manifest = scan(place)
    assert manifest.table["label"].tolist() == ["no", "yes"]
    assert manifest.table["given_split"].tolist() == ["train", "val"]
    assert manifest.root == shapes


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


def test_hidden_files_and_others_are_left_out(shapes: Path) -> None:
    for name in (".hidden.png", "notes.txt", "Thumbs.db", ".git/x.png"):
        (shapes / "red" / name).parent.mkdir(exist_ok=True)
        (shapes / "red" / name).write_bytes(b"x")
    assert len(scan(shapes).table) == 24


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


def test_the_fingerprint_goes_by_content_not_by_place(shapes: Path, tmp_path: Path) -> None:
    before = scan(shapes).fingerprint
    shutil.copytree(shapes, tmp_path / "elsewhere")
    assert scan(tmp_path / "elsewhere").fingerprint == before
    shutil.copy(tmp_path / "elsewhere" / "red" / "1.png", tmp_path / "elsewhere" / "red" / "2.png")
    assert scan(tmp_path / "elsewhere").fingerprint != before
