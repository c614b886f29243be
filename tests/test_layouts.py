"""How a folder or a table is read, what is said about it, and what would mend it."""

from __future__ import annotations

import os
import shutil
import unicodedata
from pathlib import Path

import pandas as pd
import pytest

from graft.config.parameters import LimitsConfig
from graft.data.layouts import ImageListing, list_images
from graft.data.missing_paths import mend
from graft.errors import DataError


def read(root: Path, follow_links: bool = False) -> ImageListing:
    return list_images(str(root), LimitsConfig(), follow_links)


def skipped(listing: ImageListing) -> dict[str, int]:
    table = listing.skipped.table()
    return dict(zip(table["reason"], table["count"], strict=True))


def test_reading_names_layout_and_classes_with_counts(shapes: Path, tmp_path: Path) -> None:
    (shapes / "green").mkdir()
    assert read(shapes).describe() == (
        "Read as one folder per class: 24 images in 3 classes: blue (12), green (0), red (12)."
    )
    for split in ("Train", "val"):
        shutil.copytree(shapes, tmp_path / "splits" / split)
    assert read(tmp_path / "splits").describe() == (
        "Read as Train/ and val/ with one folder per class: 48 images (train 24, val 24) in 3 classes: blue (24), "
        "green (0), red (24)."
    )
    (shapes / "x.csv").write_text("path,label\nred/1.png,a\nred/2.png,b\nblue/1.png,b\n")
    assert read(shapes / "x.csv").describe() == "Read as a table: 3 images in 2 classes: a (1), b (2)."


def test_reading_lists_fifty_classes_and_counts_the_others(shapes: Path) -> None:
    for number in range(60):
        (shapes / f"class{number:02}").mkdir()
    assert read(shapes).describe().endswith("class47 (0), class48 (0), and 12 more.")


def test_plain_class_folders_cause_no_remark(shapes: Path) -> None:
    (shapes / "red" / "images").mkdir()
    (shapes / "red" / "1.png").rename(shapes / "red" / "images" / "1.png")
    assert read(shapes).remarks == []


@pytest.mark.parametrize(
    "folders", [("seg_train/seg_train", "seg_test/seg_test"), ("train_images", "val_images"), ("fold1", "fold2")]
)
def test_class_folders_with_the_same_subfolders_are_remarked(
    shapes: Path, tmp_path: Path, folders: tuple[str, str]
) -> None:
    for folder in folders:
        shutil.copytree(shapes, tmp_path / "root" / folder)
    first, second = sorted(folder.split("/")[0] for folder in folders)
    listing = read(tmp_path / "root")
    assert {image.label for image in listing.images} == {first, second}
    assert listing.remarks[0].startswith(f"All class folders ({first}, {second}) have the same subfolders (blue, red)")
    assert len(listing.remarks) == (1 if "fold1" in folders else 2)


@pytest.mark.parametrize("name", ["train", "Test", "val_images", "seg-train", "Testing2", "valid"])
def test_class_named_like_a_split_is_remarked(shapes: Path, name: str) -> None:
    (shapes / "red").rename(shapes / name)
    (remark,) = read(shapes).remarks
    assert remark.startswith(f"A class is named like a split: {name};")


@pytest.mark.parametrize("name", ["trainer", "contest", "valve", "protest"])
def test_class_whose_name_contains_that_of_a_split_is_no_split(shapes: Path, name: str) -> None:
    (shapes / "red").rename(shapes / name)
    assert read(shapes).remarks == []


def test_root_above_the_class_folders_is_remarked(shapes: Path, tmp_path: Path) -> None:
    shapes.rename(shapes.parent / "photos")
    shutil.copytree(tmp_path / "photos", tmp_path / "root" / "photos")
    (remark,) = read(tmp_path / "root").remarks
    assert remark.startswith("The only class folder photos has the subfolders blue, red,")
    assert remark.endswith("give photos as data.root.")


def test_flat_test_folder_beside_train_is_counted_as_skipped(shapes: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        shutil.copytree(shapes, tmp_path / "root" / split)
    shutil.copytree(shapes / "red", tmp_path / "root" / "test")
    listing = read(tmp_path / "root")
    assert {image.label for image in listing.images} == {"blue", "red"}
    assert skipped(listing) == {"files outside train, val": 12}


def test_images_of_a_hidden_class_folder_are_counted_and_named(shapes: Path) -> None:
    (shapes / "red").rename(shapes / ".net")
    (shapes / ".git").mkdir()
    shutil.copy(shapes / "blue" / "1.png", shapes / ".git" / "1.png")
    (shapes / "blue" / ".1.png").touch()
    (shapes / ".empty").mkdir()
    listing = read(shapes)
    assert skipped(listing) == {"images in hidden folders": 12, "hidden files": 3}
    assert listing.remarks == [
        "12 images in hidden folders are skipped (.net/0.png, .net/1.png, .net/10.png); rename a folder that is a "
        "class, so that its name does not begin with a dot."
    ]


def test_links_out_of_the_folder_are_read_if_asked_for(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "snapshot" / "red").mkdir(parents=True)
    for path in (shapes / "red").iterdir():
        (tmp_path / "snapshot" / "red" / path.name).symlink_to(path)
    (tmp_path / "snapshot" / "blue").symlink_to(shapes / "blue")
    with pytest.raises(DataError) as error:
        read(tmp_path / "snapshot")
    assert "no images found (13 links out of the folder skipped: blue, red/0.png, red/1.png)" in str(error.value)
    assert "data.follow_links: true reads them" in str(error.value)
    listing = read(tmp_path / "snapshot", follow_links=True)
    assert [image.label for image in listing.images] == ["blue"] * 12 + ["red"] * 12
    assert (skipped(listing), listing.remarks) == ({}, [])


def test_linked_class_that_is_skipped_is_named(shapes: Path, tmp_path: Path) -> None:
    shutil.copytree(shapes / "red", tmp_path / "green")
    (shapes / "green").symlink_to(tmp_path / "green")
    assert read(shapes).remarks == [
        "1 links out of the folder are skipped (green); data.follow_links: true reads them."
    ]


def test_followed_links_end_neither_in_a_circle_nor_in_a_device(shapes: Path, tmp_path: Path) -> None:
    (shapes / "red" / "up").symlink_to(tmp_path)
    (shapes / "red" / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "back").symlink_to(shapes)
    (shapes / "blue" / "more").symlink_to(tmp_path / "more")
    listing = read(shapes, follow_links=True)
    assert skipped(listing) == {"circular links": 1, "links to folders in linked folders": 1}
    assert [image.file.path for image in listing.images if image.file.problem == "is not a regular file"] == [
        "red/zero.png"
    ]
    assert len(listing.images) == 25


MISSPELT = {
    "red\\1.png": "with / for \\",
    "red/1.PNG": "in the case of the file's name",
    "Red/1.png": "in the case of the file's name",
    " red/1.png\t": "without blanks and quotes around it",
    "'red/1.png'": "without blanks and quotes around it",
    "red/1.jpg": "with the file's extension",
    "red/1": "with the file's extension",
    "/home/somebody/shapes/red/1.png": "relative to the table's folder",
    "D:\\shapes\\RED\\1.png": ("with / for \\ and relative to the table's folder and in the case of the file's name"),
}


@pytest.mark.parametrize("path", MISSPELT)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_table_whose_paths_do_not_exist_is_rejected_with_what_mends_them(shapes: Path, path: str, suffix: str) -> None:
    table = pd.DataFrame({"path": [path, path.replace("1", "2")], "label": ["a", "b"]})
    name = shapes / f"images.{suffix}"
    table.to_csv(name, index=False) if suffix == "csv" else table.to_parquet(name)
    shown = (path.lstrip() if suffix == "csv" else path).replace("\t", "\\t")
    with pytest.raises(DataError) as error:
        read(name)
    assert str(error.value) == (
        f"{name}: 2 of 2 paths of the table do not exist; 2 would {MISSPELT[path]} ({shown} means red/1.png); "
        f"correct the column path."
    )


def test_some_missing_paths_become_problems_that_name_the_file_that_is_meant(shapes: Path) -> None:
    (shapes / "x.csv").write_text("path,label\nblue/1.png,a\nred\\1.png,a\nred/99.png,b\n../shapes/Red/2.png,b\n")
    listing = read(shapes / "x.csv")
    assert {image.file.path: image.file.problem for image in listing.images} == {
        "blue/1.png": "",
        "red\\1.png": "does not exist; red/1.png does",
        "red/99.png": "does not exist",
        "../shapes/Red/2.png": "does not exist; ../shapes/red/2.png does",
    }
    assert listing.remarks == [
        "3 of 4 paths of the table do not exist; 1 would with / for \\ (red\\1.png means red/1.png), 1 would in the "
        "case of the file's name (../shapes/Red/2.png means ../shapes/red/2.png), 1 resemble no file, such as "
        "red/99.png; correct the column path."
    ]


def test_path_with_accents_in_another_encoding_is_recognized(shapes: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café.png") for form in ("NFC", "NFD"))
    (shapes / "red" / "1.png").rename(shapes / "red" / composed)
    (shapes / "x.csv").write_text(f"path,label\nred/{decomposed},a\n")
    with pytest.raises(DataError, match="1 would with accents encoded as in the file's name"):
        read(shapes / "x.csv")
    assert mend(f"red/{composed}", f"red/{decomposed}") == "with accents encoded as in the file's name"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_table_is_read_with_any_usual_separator_and_encoding(
    shapes: Path, separator: str, encoding: str, suffix: str
) -> None:
    rows = [("Path", " Label "), ("red/1.png", "größer"), ("blue/1.png", '"a,b;c"')]
    text = "".join(f"{path}{separator}{label}\n" for path, label in rows)
    (shapes / f"x.{suffix}").write_bytes(text.encode(encoding))
    assert [(image.file.path, image.label) for image in read(shapes / f"x.{suffix}").images] == [
        ("blue/1.png", "a,b;c"), ("red/1.png", "größer"),
    ]  # fmt: skip


def test_spaces_after_a_separator_belong_neither_to_paths_nor_to_quotes(shapes: Path) -> None:
    (shapes / "x.csv").write_text('label, path\n"a, b", "red/1.png"\nc, blue/1.png\n')
    assert [(image.file.path, image.label) for image in read(shapes / "x.csv").images] == [
        ("blue/1.png", "c"), ("red/1.png", "a, b"),
    ]  # fmt: skip


def test_labels_that_differ_only_in_blanks_around_them_are_one_class(shapes: Path) -> None:
    table = {
        "path": ["red/1.png", "red/2.png", "red/3.png"],
        "label": ["a", "a ", "\ta\xa0"],
        "split": ["", "val ", ""],
    }
    pd.DataFrame(table).to_parquet(shapes / "x.parquet")
    listing = read(shapes / "x.parquet")
    assert [(image.label, image.split) for image in listing.images] == [("a", ""), ("a", "val"), ("a", "")]
    assert listing.remarks == ["Blanks around 2 labels of the table are ignored."]


@pytest.mark.parametrize(("column", "row"), [("label", "red/1.png,  "), ("path", " ,a"), ("label", 'red/1.png,"\xa0"')])
def test_blank_path_or_label_is_missing(shapes: Path, column: str, row: str) -> None:
    (shapes / "x.csv").write_text(f"path,label\n{row}\n")
    with pytest.raises(DataError, match=f"row 1 has no {column}"):
        read(shapes / "x.csv")


def test_missing_column_error_lists_the_columns(shapes: Path) -> None:
    (shapes / "x.csv").write_text("file;class\nred/1.png;a\n")
    with pytest.raises(
        DataError, match=r"lacks the column label and path; it needs path and label, and has file;class"
    ):
        read(shapes / "x.csv")


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_row_or_table_that_is_no_regular_file_is_never_opened(shapes: Path, kind: str) -> None:
    path = shapes / "special.csv"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    (shapes / "x.csv").write_text("path,label\nspecial.csv,a\nred/1.png,a\n")
    assert [image.file.problem for image in read(shapes / "x.csv").images] == ["", "is not a regular file"]
    with pytest.raises(DataError, match=r"special\.csv: (is not a regular file|no images found)"):
        read(path)


def test_names_with_escape_sequences_are_printable_in_every_sentence(shapes: Path) -> None:
    (shapes / "red").rename(shapes / "\x1b[31mtrain\n")
    listing = read(shapes)
    sentences = [listing.describe(), *listing.remarks]
    assert "\\x1b[31mtrain\\n (12)" in sentences[0]
    assert all(sentence.isprintable() for sentence in sentences)
    with pytest.raises(DataError) as error:
        read(shapes / "\x1b[2J.txt")
    assert str(error.value).isprintable()
