"""The image files that the arguments of a command name: files, folders and globs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path

from graft.config.image_sources import EXTENSIONS, skip_reason


@dataclass(frozen=True)
class ImageFile:
    """The path of an image, not yet opened; ``problem`` says why there is none."""

    path: Path
    problem: str = ""


def find_image_files(names: Iterable[str | Path]) -> Iterator[ImageFile]:
    """The files of each name, in order: a file, a folder with all images in and below it, or a glob (``**`` too).

    Hidden and system files in folders are skipped, as in training, and links to other folders are not followed.
    """
    for name in map(str, names):
        is_glob = has_magic(name) and not os.path.lexists(name)
        paths = _matches(name) if is_glob else [name]
        if not paths:
            yield ImageFile(Path(name), "matches no file")
        for path in paths:
            yield from _images_in(path) if os.path.isdir(path) else [ImageFile(Path(path))]  # noqa: PTH112 - does not raise


def _matches(pattern: str) -> list[str]:
    """The files and folders that match, sorted; each once, even if links form a circle."""
    # Not ``Path.glob``, which rejects some patterns and lists hidden files.
    paths = sorted(map(Path, glob(pattern, recursive=True)), key=lambda path: len(path.parts), reverse=True)  # noqa: PTH207
    return sorted(map(str, {(os.path.realpath(path.parent), path.name): path for path in paths}.values()))


def _images_in(folder: str) -> Iterator[ImageFile]:
    found: list[ImageFile] = []

    def add_problem(error: OSError) -> None:
        found.append(ImageFile(Path(error.filename), f"cannot be read ({error.strerror})"))

    for parent, folders, names in os.walk(folder, onerror=add_problem):
        folders[:] = [name for name in folders if not skip_reason(name)]
        images = [name for name in names if Path(name).suffix.lower() in EXTENSIONS and not skip_reason(name)]
        found += [ImageFile(Path(parent, name)) for name in images]
    yield from sorted(found, key=lambda file: file.path) or [ImageFile(Path(folder), "holds no image")]
