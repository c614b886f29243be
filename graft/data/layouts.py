"""Which files are images, of which class, in which given split: folders a class, or a table."""

from __future__ import annotations

import io
import posixpath
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from graft.data.images import EXTENSIONS
from graft.data.places import open_storage
from graft.data.storage import Ignored, Storage, StoredFile, is_address
from graft.errors import DataError, said, shown

SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
TABLES = (".csv", ".parquet")
COLUMNS = ["path", "label", "split", "group"]


@dataclass(frozen=True)
class Listed:
    """A file that is to be an image; ``split`` is ``train``, ``val``, ``test`` or empty."""

    file: StoredFile
    label: str
    split: str = ""
    group: str = ""


@dataclass(frozen=True)
class Listing:
    """All images of a data set, sorted by path, what was passed over, and class folders without an image."""

    storage: Storage
    images: list[Listed]
    ignored: Ignored
    empty_classes: list[str]


def list_images(root: str) -> Listing:
    """List the images of a folder, a table, or an address of either; raises ``DataError`` where none are."""
    is_table = PurePosixPath(root).suffix.lower() in TABLES and not Path(root).is_dir()
    listing = _from_table(root) if is_table else _from_folders(root)
    if not listing.images:
        passed = listing.ignored.table().itertuples(index=False)
        ignored = "".join(f" ({count} {reason} passed over: {examples})" for reason, count, examples in passed)
        raise DataError(
            f"{shown(root)}: no images found{ignored}; expected one folder a class, train/ and val/ of those, "
            f"or a CSV or Parquet file with the columns path and label."
        )
    return listing


def _from_folders(root: str) -> Listing:
    if not is_address(root) and not Path(root).is_dir():
        raise DataError(f"{root}: is neither a folder nor a CSV or Parquet file; give one of these.")
    storage = open_storage(root)
    found = storage.find()
    splits = _given_splits([file.path for file in found.files])
    depth = 1 if splits else 0
    images = []
    for file in found.files:
        parts, suffix = file.path.split("/"), PurePosixPath(file.path).suffix.lower()
        if splits and parts[0] not in splits:
            found.ignored.add(f"files outside {', '.join(sorted(splits))}", file.path)
        elif suffix not in EXTENSIONS:
            found.ignored.add(f"{suffix or 'other'} files", file.path)
        elif len(parts) < depth + 2 or not parts[depth].strip():
            found.ignored.add("images in no class folder", file.path)
        else:
            images.append(Listed(file, parts[depth], splits.get(parts[0], "")))
    folders = [folder.split("/") for folder in found.folders]
    classes = {parts[depth] for parts in folders if len(parts) == depth + 1 and (not splits or parts[0] in splits)}
    return Listing(storage, images, found.ignored, sorted(classes - {image.label for image in images}))


def _given_splits(files: Sequence[str]) -> dict[str, str]:
    """Which of the outermost folders are splits: named so, with most images in class folders of their own.

    There are some where one of them trains, or where nothing else stands beside them.
    """
    images = [path.split("/") for path in files if PurePosixPath(path).suffix.lower() in EXTENSIONS]
    nested = Counter(parts[0] for parts in images if len(parts) > 2)
    direct = Counter(parts[0] for parts in images if len(parts) == 2)
    splits = {top: SPLITS[top.lower()] for top in nested if top.lower() in SPLITS and nested[top] > direct[top]}
    return splits if "train" in splits.values() or set(splits) == {*nested, *direct} else {}


def _from_table(root: str) -> Listing:
    base, name = posixpath.split(root)
    storage = open_storage(base or ".")
    table = _read_table(root, storage, name)
    paths = [_inside(path, storage.address) for path in table["path"]]
    splits = [SPLITS.get(split.lower(), split) for split in table["split"]]
    if unknown := {split for split in splits if split} - set(SPLITS.values()):
        raise DataError(f"{root}: split holds {sorted(unknown)[0]!r}; allowed are train, val, test and empty.")
    rows = zip(storage.look_up(paths), table["label"], splits, table["group"], strict=True)
    images = sorted((Listed(*row) for row in rows), key=lambda image: image.file.path)
    return Listing(storage, images, Ignored(), [])


def _read_table(root: str, storage: Storage, name: str) -> pd.DataFrame:
    (file,) = storage.look_up([name])
    if problem := file.problem or storage.fetch([file]).get(name):
        raise DataError(f"{root}: {problem}; give the address of a CSV or Parquet file.")
    try:
        content = io.BytesIO((storage.folder / name).read_bytes())
        if name.lower().endswith(".parquet"):
            table = pd.read_parquet(content)
        else:
            with warnings.catch_warnings(
                action="error", category=pd.errors.ParserWarning
            ):  # rows longer than the head
                table = pd.read_csv(
                    content, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False
                )
    # The readers raise errors of several libraries on damaged bytes.
    except Exception as error:
        raise DataError(
            f"{root}: cannot be read as a table ({said(error)}); give a CSV or Parquet file."
        ) from error
    table = table.reset_index() if table.index.name else table
    names = [str(name).strip().lower() for name in table.columns]
    if twice := [name for name in COLUMNS if names.count(name) > 1 or f"{name}.1" in names]:
        raise DataError(f"{root}: has the column {twice[0]} twice; remove or rename one of them.")
    table.columns = pd.Index(names)
    if missing := {"path", "label"} - set(table.columns):
        raise DataError(f"{root}: lacks the column {' and '.join(sorted(missing))}; it needs path and label.")
    table = table.reset_index(drop=True).reindex(columns=COLUMNS)
    for column in COLUMNS:
        if any(isinstance(value, list | dict | np.ndarray) for value in table[column]):
            raise DataError(f"{root}: the column {column} holds lists or records; it must hold text or numbers.")
    table = table.apply(_as_text)
    _refuse_gaps(root, table)
    return table


def _as_text(column: pd.Series) -> pd.Series:
    """A column as text, nothing as ``""``, and whole numbers without the point that a gap among them brings."""
    if pd.api.types.is_float_dtype(column) and (column.dropna() % 1 == 0).all() and column.abs().max() < 2**53:
        column = column.astype("Int64")
    return column.astype(object).where(column.notna(), "").astype(str)


def _refuse_gaps(root: str, table: pd.DataFrame) -> None:
    for column in ("path", "label"):
        if (empty := table.index[table[column] == ""]).size:
            raise DataError(f"{root}: row {int(empty[0]) + 1} has no {column}; give it one or remove the row.")


def _inside(path: str, address: str) -> str:
    """A path as seen from the table's folder."""
    return posixpath.normpath(path.removeprefix(f"{address}/"))
