"""The manifest: the table of images that everything downstream goes by."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
from PIL import Image, ImageFilter
from tqdm import tqdm

from graft.errors import DataError
from graft.images import EXTENSIONS, decode

COLUMNS = {
    "path": "str",
    "label": "str",
    "given_split": "str",
    "width_px": "int64",
    "height_px": "int64",
    "mode": "str",
    "format": "str",
    "size_bytes": "int64",
    "sha256": "str",
    "phash": "str",
    "brightness": "float64",
    "sharpness": "float64",
    "error": "str",
}
GIVEN_SPLITS = ("train", "val", "test")
LAPLACIAN = ImageFilter.Kernel((3, 3), [0, 1, 0, 1, -4, 1, 0, 1, 0], scale=1, offset=128)
ANALYSED_SIDE_PX = 256


@dataclass(frozen=True)
class Manifest:
    """One row an image, sorted by path.

    ``root`` is the folder that ``path`` is relative to. ``given_split`` is ``train``, ``val``, ``test`` or
    empty; ``brightness`` is the mean grey in 0..255; ``sharpness`` the variance of the Laplacian at 256 px;
    ``phash`` a 64-bit perceptual hash in hexadecimal; ``error`` is empty where the image decoded.
    """

    table: pd.DataFrame
    root: Path

    @property
    def classes(self) -> list[str]:
        """The names of the classes, sorted: their order in every model."""
        return sorted(self.table["label"].unique())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of paths, labels, given splits and contents; the place of the folder does not count."""
        facts = self.table[["path", "label", "given_split", "sha256", "error"]]
        return hashlib.sha256(facts.to_csv(index=False).encode()).hexdigest()


@dataclass(frozen=True)
class _Listed:
    path: str
    label: str
    given_split: str = ""


def scan(root: str | Path) -> Manifest:
    """List and decode the images of a folder or a CSV or Parquet manifest; raises ``DataError`` where none are."""
    place = Path(root).resolve()
    listed, base = (_from_table(place), place.parent) if place.is_file() else (_from_folders(place), place)
    if not listed:
        raise DataError(
            f"{root}: no images found; expected one folder a class, train/ and val/ of those, "
            f"or a CSV or Parquet file with the columns path and label."
        )
    listed = sorted(listed, key=lambda entry: entry.path)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda entry: inspect(base, entry.path), listed)
        facts = list(tqdm(results, total=len(listed), desc="Reading images", unit="image", disable=None))
    rows = [vars(entry) | fact for entry, fact in zip(listed, facts, strict=True)]
    return Manifest(pd.DataFrame(rows)[list(COLUMNS)].astype(COLUMNS), base)


def inspect(base: Path, path: str) -> dict[str, object]:
    """Decode one image and describe it; a failure becomes its ``error``."""
    facts: dict[str, object] = {
        "width_px": 0, "height_px": 0, "mode": "", "format": "", "size_bytes": 0, "sha256": "",
        "phash": "", "brightness": 0.0, "sharpness": 0.0, "error": "",
    }  # fmt: skip
    try:
        content = (base / path).read_bytes()
    except OSError as error:
        return facts | {"error": f"cannot be read ({error.strerror})"}
    facts |= {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    try:
        decoded = decode(base / path)
    except DataError as error:
        return facts | {"error": str(error)}
    return facts | {"mode": decoded.mode, "format": decoded.format} | _describe(decoded.rgb)


def _describe(rgb: Image.Image) -> dict[str, object]:
    grey = rgb.convert("L")
    grey.thumbnail((ANALYSED_SIDE_PX, ANALYSED_SIDE_PX), Image.Resampling.BOX)
    return {
        "width_px": rgb.width,
        "height_px": rgb.height,
        "phash": str(imagehash.phash(rgb)),
        "brightness": float(np.asarray(grey).mean()),
        "sharpness": float(np.asarray(grey.filter(LAPLACIAN), dtype=np.float64).var()),
    }


def _from_folders(root: Path) -> list[_Listed]:
    splits = [name for name in GIVEN_SPLITS if (root / name).is_dir()]
    if "train" not in splits or len(splits) == 1:
        return _from_class_folders(root, root, "")
    return [entry for name in splits for entry in _from_class_folders(root, root / name, name)]


def _from_class_folders(root: Path, parent: Path, split: str) -> list[_Listed]:
    return [
        _Listed(path.relative_to(root).as_posix(), folder.name, split)
        for folder in _visible(parent)
        if folder.is_dir()
        for path in folder.rglob("*")
        if path.suffix.lower() in EXTENSIONS
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _from_table(place: Path) -> list[_Listed]:
    try:
        if place.suffix.lower() == ".parquet":
            table = pd.read_parquet(place)
        else:
            table = pd.read_csv(place, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{place}: is neither a folder nor a CSV or Parquet file ({error}).") from error
    if missing := {"path", "label"} - set(table.columns):
        raise DataError(f"{place}: lacks the column {' and '.join(sorted(missing))}; it needs path and label.")
    table = table.fillna("").astype(str)
    for column in ("path", "label"):
        if (empty := table.index[table[column] == ""]).size:
            raise DataError(f"{place}: row {int(empty[0]) + 1} has no {column}; give it one or remove the row.")
    given = table["split"] if "split" in table else pd.Series("", index=table.index)
    if unknown := set(given) - {*GIVEN_SPLITS, ""}:
        raise DataError(f"{place}: split holds {sorted(unknown)[0]!r}; allowed are train, val, test and empty.")
    columns = (table["path"], table["label"], given)
    return [_Listed(*row) for row in zip(*columns, strict=True)]
