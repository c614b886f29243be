"""The manifest: the table of images that everything downstream goes by."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from graft.config import LimitsConfig
from graft.data.inspection import NOTHING
from graft.data.layouts import Listed, list_images
from graft.data.places import local_folder
from graft.data.scan_index import ScanIndex
from graft.data.storage import Ignored, Storage
from graft.data.workers import Task, inspect_all

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
    "error": "str",
}
FACTS = list(NOTHING)
CHUNK = 4096  # answers that wait as dictionaries, which take ten times the room of a table's rows


@dataclass(frozen=True)
class Manifest:
    """One row an image, sorted by path, and what else lies beside the images.

    ``root`` is the folder or address that ``path`` is relative to. ``given_split`` is ``train``, ``val``, ``test``
    or empty; ``given_group`` is what a table says, or empty. Sides are those of the upright image. ``phash`` is a
    64-bit perceptual hash in hexadecimal; ``brightness`` is the mean grey and ``contrast`` its standard deviation,
    in 0..255; ``sharpness`` is the variance of the Laplacian at 64 px; ``chroma`` is the mean distance of red and
    blue from green; ``error`` is empty where the image decoded. ``ignored`` has the columns ``reason, count,
    examples``.
    """

    table: pd.DataFrame
    root: str
    ignored: pd.DataFrame = field(default_factory=lambda: Ignored().table())
    empty_classes: list[str] = field(default_factory=list)

    @property
    def classes(self) -> list[str]:
        """The names of the classes, sorted: their order in every model."""
        return sorted(self.table["label"].unique())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of paths, labels, given splits and contents; the place of the folder does not count."""
        facts = self.table[["path", "label", "given_split", "given_group", "sha256", "error"]]
        return hashlib.sha256(facts.to_csv(index=False).encode()).hexdigest()

    def folder(self) -> Path:
        """The folder on this machine that holds every image that could be read."""
        return local_folder(self.root, self.table.loc[self.table["sha256"] != "", "path"])


def scan(root: str | Path, limits: LimitsConfig | None = None) -> Manifest:
    """List the images of a folder, a table or an address, and read those that are new or have changed.

    Raises ``DataError`` where there are none. What is wrong with a single image becomes its ``error``.
    """
    limits = limits or LimitsConfig()
    listing = list_images(str(root))
    index = ScanIndex(f"{listing.storage.address}\0{root}", limits)
    listed = _listed(listing.images, listing.storage, limits)
    facts = _facts(listed, index.load(), listing.storage.folder, limits)
    index.save(facts.assign(path=listed["path"], stamp=listed["stamp"]))
    table = pd.concat([listed, facts], axis=1)[list(COLUMNS)].astype(COLUMNS)
    return Manifest(table, listing.storage.address, listing.ignored.table(), listing.empty_classes)


def _listed(images: Sequence[Listed], storage: Storage, limits: LimitsConfig) -> pd.DataFrame:
    """What is known of each image before it is opened; ``problem`` where it cannot or must not be."""
    most = limits.max_file_bytes
    large = {
        image.file.path: f"has {image.file.size_bytes} bytes, more than the limit of {most}"
        for image in images
        if image.file.size_bytes > most
    }
    wanted = [image.file for image in images if image.file.path not in large]
    problems = large | storage.fetch(wanted)
    rows = [
        (image.file.path, image.label, image.split, image.group, image.file.stamp,
         image.file.problem or problems.get(image.file.path, ""))
        for image in images
    ]  # fmt: skip
    columns = ["path", "label", "given_split", "given_group", "stamp", "problem"]
    return pd.DataFrame(rows, columns=columns, dtype="str")


def _facts(listed: pd.DataFrame, earlier: pd.DataFrame, folder: Path, limits: LimitsConfig) -> pd.DataFrame:
    """The facts of each image, in order: those of an earlier scan wherever the content is the same."""
    before = listed[["path"]].merge(earlier.drop_duplicates("path"), on="path", how="left")
    bad = listed["problem"] != ""
    same = (listed["stamp"] == before["stamp"]) & (listed["stamp"] != "") & ~bad
    unread = listed.index[~same & ~bad]
    tasks = list(zip(listed["path"][unread], before["sha256"][unread].fillna(""), strict=True))
    read = _read(folder, tasks, limits).set_index(unread)
    unchanged = read.index[read["sha256"].isna()]
    problems = [NOTHING | {"error": problem} for problem in listed["problem"][bad]]
    found = [
        before.loc[same | same.index.isin(unchanged), FACTS],
        read.drop(index=unchanged),
        pd.DataFrame(problems, index=listed.index[bad], columns=FACTS),
    ]
    return pd.concat([frame for frame in found if len(frame)]).sort_index()


def _read(folder: Path, tasks: Sequence[Task], limits: LimitsConfig) -> pd.DataFrame:
    """The facts of each task's file; all missing where its content is the known one."""
    frames = [pd.DataFrame(columns=FACTS)]
    hidden = None if tasks else True
    facts = inspect_all(folder, tasks, limits)
    waiting = iter(tqdm(facts, total=len(tasks), desc="Reading images", unit="image", disable=hidden))
    while chunk := list(islice(waiting, CHUNK)):
        frames.append(pd.DataFrame([row or {} for row in chunk], columns=FACTS))
    return pd.concat(frames, ignore_index=True)
