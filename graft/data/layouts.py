"""Dataset layouts: one folder per class, splits of such folders, or a table. Lists images, labels and splits."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from graft.config.image_sources import EXTENSIONS, is_url
from graft.config.parameters import LimitsConfig
from graft.data.missing_paths import PathFinder, missing_summary
from graft.data.open_storage import open_storage
from graft.data.storage import EXAMPLES, MISSING, SkippedFiles, Storage, StoredFile
from graft.data.tables import SUFFIXES, read_table
from graft.errors import DataError, printable

SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
LISTED_CLASSES = 50


@dataclass(frozen=True)
class ListedImage:
    """An image file with its label, not yet opened; ``split`` is ``train``, ``val``, ``test`` or empty."""

    file: StoredFile
    label: str
    split: str = ""
    group: str = ""


@dataclass(frozen=True)
class ImageListing:
    """All images of a dataset, sorted by path; skipped files; and classes whose folder has no image.

    ``layout`` says how the root was read, ``remarks`` what in it may be a mistake.
    """

    storage: Storage
    images: list[ListedImage]
    skipped: SkippedFiles
    empty_classes: list[str]
    layout: str
    remarks: list[str]

    def describe(self) -> str:
        """A sentence: the layout, and the classes with their numbers of images."""
        counts = Counter(dict.fromkeys(self.empty_classes, 0))
        counts.update(image.label for image in self.images)
        classes = [f"{printable(label)} ({counts[label]:,})" for label in sorted(counts)]
        more = [f"and {len(classes) - LISTED_CLASSES:,} more"] if len(classes) > LISTED_CLASSES else []
        splits = Counter(image.split for image in self.images if image.split)
        parts = f" ({', '.join(f'{split} {splits[split]:,}' for split in sorted(splits))})" if splits else ""
        return (
            f"Read as {self.layout}: {len(self.images):,} images{parts} in {len(classes):,} classes: "
            f"{', '.join([*classes[:LISTED_CLASSES], *more])}."
        )


def list_images(root: str, limits: LimitsConfig, follow_links: bool = False) -> ImageListing:
    """List the images of a folder or a table, local or remote; raises ``DataError`` if there are none."""
    is_table = PurePosixPath(root).suffix.lower() in SUFFIXES and not Path(root).is_dir()
    listing = _from_table(root, limits) if is_table else _from_folders(root, limits, follow_links)
    if not listing.images:
        rows = listing.skipped.table().itertuples(index=False)
        skipped = "".join(f" ({count} {reason} skipped: {examples})" for reason, count, examples in rows)
        error = (
            f"{printable(root)}: no images found{skipped}; expected one folder per class, train/ and val/ of those, "
            f"or a CSV or Parquet file with the columns path and label."
        )
        raise DataError(" ".join([error, *listing.remarks]))
    return listing


def _from_folders(root: str, limits: LimitsConfig, follow_links: bool) -> ImageListing:
    if not is_url(root) and not Path(root).is_dir():
        raise DataError(f"{printable(root)}: is neither a folder nor a CSV or Parquet file; give one of these.")
    storage = open_storage(root, limits, follow_links)
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
    empty = sorted(classes - {image.label for image in images})
    where = f"{' and '.join(f'{split}/' for split in sorted(splits))} with " if splits else ""
    remarks = [*_suspicious_folders(images, depth), *listing.skipped.remedies()]
    return ImageListing(storage, images, listing.skipped, empty, f"{where}one folder per class", remarks)


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


def _suspicious_folders(images: Sequence[ListedImage], depth: int) -> list[str]:
    """What suggests that class folders are none; ``depth`` is the number of folders above them."""
    inner: dict[str, set[str]] = {image.label: set() for image in images}
    for image in images:
        inner[image.label].update(image.file.path.split("/")[depth + 1 : -1])
    shared = set.intersection(*inner.values()) if inner else set()
    remarks = []
    if len(shared) > 1 and len(inner) == 1:
        remarks = [
            f"The only class folder {_examples(inner)} has the subfolders {_examples(shared)}, whose names are not "
            f"used as classes; if they are the classes, give {_examples(inner)} as data.root."
        ]
    elif len(shared) > 1:
        remarks = [
            f"All class folders ({_examples(inner)}) have the same subfolders ({_examples(shared)}), whose names are "
            f"not used as classes; if they are the classes, name the folders above them train, val and test."
        ]
    if splits := [label for label in inner if _is_like_a_split(label)]:
        remarks.append(
            f"A class is named like a split: {_examples(splits)}; if it is one, the data need train/, val/ or test/ "
            f"directly in data.root, with one folder per class in each."
        )
    return remarks


def _examples(names: Collection[str]) -> str:
    more = [", …"] if len(names) > EXAMPLES else []
    return "".join([", ".join(map(printable, sorted(names)[:EXAMPLES])), *more])


def _is_like_a_split(name: str) -> bool:
    """Whether a folder's name has that of a split as a word: ``seg_train``, ``val-images``, ``Test2``."""
    return not SPLITS.keys().isdisjoint(re.findall("[a-z]+", name.lower()))


def _from_table(root: str, limits: LimitsConfig) -> ImageListing:
    base, name = posixpath.split(root)
    storage = open_storage(base or ".", limits)
    table = read_table(root, storage, name)
    paths = [_relative_path(path, storage.address) for path in table.rows["path"]]
    splits = [SPLITS.get(split.lower(), split) for split in table.rows["split"]]
    if unknown := {split for split in splits if split} - set(SPLITS.values()):
        raise DataError(
            f"{printable(root)}: split holds {sorted(unknown)[0]!r}; allowed are train, val, test and empty."
        )
    files = storage.stat(paths)
    finder = PathFinder(storage)
    meant = {file.path: finder.closest(file.path) for file in files if file.problem.startswith(MISSING)}
    summary = missing_summary(meant, len(files)) if meant else ""
    if meant and len(meant) == len(set(paths)):
        raise DataError(f"{printable(root)}: {summary}; correct the column path.")
    files = [
        replace(file, problem=f"{file.problem}; {found} does") if (found := meant.get(file.path)) else file
        for file in files
    ]
    rows = zip(files, table.rows["label"], splits, table.rows["group"], strict=True)
    images = sorted((ListedImage(*row) for row in rows), key=lambda image: image.file.path)
    remarks = [*table.remarks, *([f"{summary}; correct the column path."] if summary else [])]
    return ImageListing(storage, images, SkippedFiles(), [], "a table", remarks)


def _relative_path(path: str, address: str) -> str:
    """A path relative to the table's folder."""
    return posixpath.normpath(path.removeprefix(f"{address}/"))
