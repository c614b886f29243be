"""The manifest: the table of images that every later step works on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from graft.config.parameters import LimitsConfig
from graft.data.inspection import EMPTY_STATS
from graft.data.layouts import ListedImage, list_images
from graft.data.open_storage import local_folder
from graft.data.scan_index import ScanIndex
from graft.data.storage import SkippedFiles, Storage
from graft.data.thumbnail_cache import ThumbnailCache
from graft.data.workers import InspectionTask, inspect_all

COLUMNS = {
    "path": "str",
    "label": "str",
    "given_split": "str",
    "given_group": "str",
    "width_px": "int64",
    "height_px": "int64",
    "mode": "str",
    "format": "str",
    "size_bytes": "int64",
    "sha256": "str",
    "phash": "str",
    "brightness": "float64",
    "contrast": "float64",
    "sharpness": "float64",
    "chroma": "float64",
    "used_range": "float64",
    "error": "str",
}
STAT_COLUMNS = list(EMPTY_STATS)
CHUNK = 4096  # image stats held as dictionaries, which take ten times the memory of a table's rows


@dataclass(frozen=True)
class Manifest:
    """One row per image, sorted by path, with the columns ``COLUMNS``; and the files that were skipped.

    ``root`` is the folder or address that ``path`` is relative to. ``given_split`` is ``train``, ``val``, ``test``
    or empty; ``given_group`` is the table's ``group``, or empty. Width and height are those of the upright image.
    ``phash`` is a 64-bit perceptual hash in hexadecimal; ``brightness`` is the mean grey and ``contrast`` its standard
    deviation, in 0..255; ``sharpness`` is the variance of the Laplacian at 64 px; ``chroma`` is the mean absolute
    difference of red and blue from green, in 0..255; ``used_range`` is that of ``DecodedImage``; ``error`` is empty if
    the image decoded. ``skipped`` has the columns ``reason, count, examples``. ``reading`` is a sentence that says
    how the root was read, with its classes and their numbers of images; ``remarks`` are sentences about what may be a
    mistake there.
    """

    table: pd.DataFrame
    root: str
    skipped: pd.DataFrame = field(default_factory=lambda: SkippedFiles().table())
    empty_classes: list[str] = field(default_factory=list)
    reading: str = ""
    remarks: list[str] = field(default_factory=list)

    @property
    def classes(self) -> list[str]:
        """The class names, sorted: their order in every model."""
        return sorted(self.table["label"].unique())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of paths, labels, given splits, groups and contents; independent of ``root``."""
        columns = ["path", "label", "given_split", "given_group", "sha256", "error"]
        return hashlib.sha256(self.table[columns].to_csv(index=False).encode()).hexdigest()

    def folder(self) -> Path:
        """The local folder that holds every readable image; fetches what is missing."""
        return local_folder(self.root, self.table.loc[self.table["sha256"] != "", "path"])


def scan(root: str | Path, limits: LimitsConfig | None = None, follow_links: bool = False) -> Manifest:
    """List the images of a folder or table, local or remote, and read those that are new or have changed.

    Raises ``DataError`` if there are none. A problem of a single image becomes its ``error``.
    """
    limits = limits or LimitsConfig()
    listing = list_images(str(root), limits, follow_links)
    index = ScanIndex(f"{listing.storage.address}\0{root}", limits)
    records = _image_records(listing.images, listing.storage, limits)
    thumbnails = ThumbnailCache(listing.storage.address)
    stats = _image_stats(records, index.load(), listing.storage.folder, limits, thumbnails)
    thumbnails.save(stats["sha256"])
    index.save(stats.assign(path=records["path"], stamp=records["stamp"]))
    table = pd.concat([records, stats], axis=1)[list(COLUMNS)].astype(COLUMNS)
    return Manifest(
        table, listing.storage.address, listing.skipped.table(), listing.empty_classes,
        listing.describe(), listing.remarks,
    )  # fmt: skip


def _image_records(images: Sequence[ListedImage], storage: Storage, limits: LimitsConfig) -> pd.DataFrame:
    """Path, label, split, group and stamp of each image; ``problem`` if it cannot or must not be opened."""
    max_bytes = limits.max_file_bytes
    too_large = {
        image.file.path: f"has {image.file.size_bytes} bytes, more than the limit of {max_bytes}"
        for image in images
        if image.file.size_bytes > max_bytes
    }
    problems = too_large | storage.fetch([image.file for image in images if image.file.path not in too_large])
    records = [
        (image.file.path, image.label, image.split, image.group, image.file.stamp,
         image.file.problem or problems.get(image.file.path, ""))
        for image in images
    ]  # fmt: skip
    columns = ["path", "label", "given_split", "given_group", "stamp", "problem"]
    return pd.DataFrame(records, columns=columns, dtype="str")


def _image_stats(
    records: pd.DataFrame, cached: pd.DataFrame, folder: Path, limits: LimitsConfig, thumbnails: ThumbnailCache
) -> pd.DataFrame:
    """The stats of each image, in order: cached ones if its stamp or its content is the same."""
    cached = records[["path"]].merge(cached.drop_duplicates("path"), on="path", how="left")
    bad = records["problem"] != ""
    same_stamp = (records["stamp"] == cached["stamp"]) & (records["stamp"] != "") & ~bad
    to_read = records.index[~same_stamp & ~bad]
    tasks = list(zip(records["path"][to_read], cached["sha256"][to_read].fillna(""), strict=True))
    read = _read_stats(folder, tasks, limits, thumbnails).set_index(to_read)
    same_content = read.index[read["sha256"].isna()]
    problems = [EMPTY_STATS | {"error": problem} for problem in records["problem"][bad]]
    parts = [
        cached.loc[same_stamp | same_stamp.index.isin(same_content), STAT_COLUMNS],
        read.drop(index=same_content),
        pd.DataFrame(problems, index=records.index[bad], columns=STAT_COLUMNS),
    ]
    return pd.concat([part for part in parts if len(part)]).sort_index()


def _read_stats(
    folder: Path, tasks: Sequence[InspectionTask], limits: LimitsConfig, thumbnails: ThumbnailCache
) -> pd.DataFrame:
    """The stats of each task's file; a row of missing values if its content has not changed."""
    frames = [pd.DataFrame(columns=STAT_COLUMNS)]
    hide_progress = None if tasks else True  # None: hidden unless the output is a terminal
    results = inspect_all(folder, tasks, limits)
    progress = iter(tqdm(results, total=len(tasks), desc="Reading images", unit="image", disable=hide_progress))
    while chunk := list(islice(progress, CHUNK)):
        thumbnails.add(chunk)
        frames.append(pd.DataFrame([stats or {} for stats in chunk], columns=STAT_COLUMNS))
    return pd.concat(frames, ignore_index=True)
