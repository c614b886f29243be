"""Dataset layouts: one folder per class, splits of such folders, or a table. Lists images, labels and splits."""

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

from graft.config.image_sources import EXTENSIONS, is_url
from graft.data.open_storage import open_storage
from graft.data.storage import SkippedFiles, Storage, StoredFile
from graft.errors import DataError, error_summary, printable

SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
TABLES = (".csv", ".parquet")
COLUMNS = ["path", "label", "split", "group"]


@dataclass(frozen=True)
class ListedImage:
    """An image file with its label, not yet opened; ``split`` is ``train``, ``val``, ``test`` or empty."""

    file: StoredFile
    label: str
    split: str = ""
    group: str = ""


@dataclass(frozen=True)
class ImageListing:
    """All images of a dataset, sorted by path; skipped files; and classes whose folder has no image."""

    storage: Storage
    images: list[ListedImage]
    skipped: SkippedFiles
    empty_classes: list[str]


def list_images(root: str) -> ImageListing:
    """List the images of a folder or a table, local or remote; raises ``DataError`` if there are none."""
    is_table = PurePosixPath(root).suffix.lower() in TABLES and not Path(root).is_dir()
    listing = _from_table(root) if is_table else _from_folders(root)
    if not listing.images:
        rows = listing.skipped.table().itertuples(index=False)
        skipped = "".join(f" ({count} {reason} skipped: {examples})" for reason, count, examples in rows)
        raise DataError(
            f"{printable(root)}: no images found{skipped}; expected one folder per class, train/ and val/ of those, "
            f"or a CSV or Parquet file with the columns path and label."
        )
    return listing


def _from_folders(root: str) -> ImageListing:
    if not is_url(root) and not Path(root).is_dir():
        raise DataError(f"{root}: is neither a folder nor a CSV or Parquet file; give one of these.")
    storage = open_storage(root)
    listing = storage.list_files()
    splits = _split_folders([file.path for file in listing.files])
    depth = 1 if splits else 0
    images = []
    for file in listing.files:
        parts, suffix = file.path.split("/"), PurePosixPath(file.path).suffix.lower()
        if splits and parts[0] not in splits:
            listing.skipped.add(f"files outside {', '.join(sorted(splits))}", file.path)
        elif suffix not in EXTENSIONS:
            listing.skipped.add(f"{suffix or 'other'} files", file.path)
        elif len(parts) < depth + 2 or not parts[depth].strip():
            listing.skipped.add("images outside class folders", file.path)
        else:
            images.append(ListedImage(file, parts[depth], splits.get(parts[0], "")))
    folders = [folder.split("/") for folder in listing.folders]
    classes = {parts[depth] for parts in folders if len(parts) == depth + 1 and (not splits or parts[0] in splits)}
    return ImageListing(storage, images, listing.skipped, sorted(classes - {image.label for image in images}))


def _split_folders(files: Sequence[str]) -> dict[str, str]:
    """The split of each top-level folder that is one; empty if the top-level folders are classes.

    A split folder has the name of a split and most of its images in subfolders. There must be a training split, or no
    top-level folder but splits: a class may be called "test".
    """
    images = [path.split("/") for path in files if PurePosixPath(path).suffix.lower() in EXTENSIONS]
    nested = Counter(parts[0] for parts in images if len(parts) > 2)
    direct = Counter(parts[0] for parts in images if len(parts) == 2)
    splits = {top: SPLITS[top.lower()] for top in nested if top.lower() in SPLITS and nested[top] > direct[top]}
    return splits if "train" in splits.values() or set(splits) == {*nested, *direct} else {}


def _from_table(root: str) -> ImageListing:
    base, name = posixpath.split(root)
    storage = open_storage(base or ".")
    table = _read_table(root, storage, name)
    paths = [_relative_path(path, storage.address) for path in table["path"]]
    splits = [SPLITS.get(split.lower(), split) for split in table["split"]]
    if unknown := {split for split in splits if split} - set(SPLITS.values()):
        raise DataError(f"{root}: split holds {sorted(unknown)[0]!r}; allowed are train, val, test and empty.")
    rows = zip(storage.stat(paths), table["label"], splits, table["group"], strict=True)
    images = sorted((ListedImage(*row) for row in rows), key=lambda image: image.file.path)
    return ImageListing(storage, images, SkippedFiles(), [])


def _read_table(root: str, storage: Storage, name: str) -> pd.DataFrame:
    (file,) = storage.stat([name])
    if problem := file.problem or storage.fetch([file]).get(name):
        raise DataError(f"{root}: {problem}; give a CSV or Parquet file.")
    try:
        content = io.BytesIO((storage.folder / name).read_bytes())
        if name.lower().endswith(".parquet"):
            table = pd.read_parquet(content)
        else:
            # A ParserWarning means that rows are longer than the header.
            with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):
                table = pd.read_csv(content, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False)
    # The readers raise errors of several libraries for damaged content.
    except Exception as error:
        raise DataError(
            f"{root}: cannot be read as a table ({error_summary(error)}); give a CSV or Parquet file."
        ) from error
    table = table.reset_index() if table.index.name else table
    names = [str(name).strip().lower() for name in table.columns]
    if repeated := [name for name in COLUMNS if names.count(name) > 1 or f"{name}.1" in names]:
        raise DataError(f"{root}: has the column {repeated[0]} twice; remove or rename one of them.")
    table.columns = pd.Index(names)
    if missing := {"path", "label"} - set(table.columns):
        raise DataError(f"{root}: lacks the column {' and '.join(sorted(missing))}; it needs path and label.")
    table = table.reset_index(drop=True).reindex(columns=COLUMNS)
    for column in COLUMNS:
        if any(isinstance(value, list | dict | np.ndarray) for value in table[column]):
            raise DataError(f"{root}: the column {column} holds lists or records; it must hold text or numbers.")
    table = table.apply(_as_text)
    _check_no_missing_values(root, table)
    return table


def _as_text(column: pd.Series) -> pd.Series:
    """A column as text, missing values as ``""``; a missing value makes integers float, so whole numbers lose ".0"."""
    if pd.api.types.is_float_dtype(column) and (column.dropna() % 1 == 0).all() and column.abs().max() < 2**53:
        column = column.astype("Int64")
    return column.astype(object).where(column.notna(), "").astype(str)


def _check_no_missing_values(root: str, table: pd.DataFrame) -> None:
    for column in ("path", "label"):
        if (empty := table.index[table[column] == ""]).size:
            raise DataError(f"{root}: row {int(empty[0]) + 1} has no {column}; give it one or remove the row.")


def _relative_path(path: str, address: str) -> str:
    """A path relative to the table's folder."""
    return posixpath.normpath(path.removeprefix(f"{address}/"))
