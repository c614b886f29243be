"""Paths of a table that do not exist: what would make each of them the path of a file that does."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from graft.data.storage import Storage
from graft.errors import printable


class PathFinder:
    """Finds files whose paths differ only in slashes, case, blanks, accents, extension or leading folders."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._folders: dict[str, dict[str, str]] = {}

    def closest(self, path: str) -> str:
        """The existing path that is meant by one that does not exist; empty if there is none."""
        parts = _parts(path)
        for start in range(len(parts)):
            found = self._existing(parts[start:])
            if found and not self._storage.names(found):  # a folder has names
                return found
        return ""

    def _existing(self, parts: Sequence[str]) -> str:
        path = ""
        for part in parts:
            names = self._names(path)
            name = names.get(_key(part)) or names.get(_stem(part))
            if part != ".." and name is None:
                return ""
            path = posixpath.join(path, name or part)
        return path

    def _names(self, folder: str) -> dict[str, str]:
        """The names in a folder by what they have in common with misspelt ones."""
        if folder not in self._folders:
            names = sorted(self._storage.names(folder))
            self._folders[folder] = {_stem(name): name for name in names} | {_key(name): name for name in names}
        return self._folders[folder]


def missing_summary(meant: dict[str, str], total: int) -> str:
    """How many paths do not exist, and what would mend them; ``meant`` has the file that each means, or ``""``."""
    mends = Counter(mend(path, found) for path, found in meant.items() if found)
    examples = {mend(path, found): (path, found) for path, found in reversed(meant.items()) if found}
    texts = [
        f"{count:,} would {text} ({printable(examples[text][0])} means {printable(examples[text][1])})"
        for text, count in mends.most_common()
    ]
    if unknown := [path for path, found in meant.items() if not found]:
        texts.append(f"{len(unknown):,} resemble no file, such as {printable(unknown[0])}")
    return f"{len(meant):,} of {total:,} paths of the table do not exist; {', '.join(texts)}"


def mend(path: str, found: str) -> str:
    """How ``path`` must be written to become ``found``, such as ``with / for \\``."""
    parts, count = _parts(path), len(_parts(found))
    tail = "/".join(parts[-count:])
    name, actual = unicodedata.normalize("NFC", tail), unicodedata.normalize("NFC", found)
    (stem, suffix), (actual_stem, actual_suffix) = posixpath.splitext(name), posixpath.splitext(actual)
    same_type = suffix.casefold() == actual_suffix.casefold()
    differences = {
        "with / for \\": "\\" in path,
        "without blanks and quotes around it": any(part != _bare(part) for part in re.split(r"[\\/]", path)),
        "relative to the table's folder": len(parts) > count,
        "with the file's extension": not same_type,
        "in the case of the file's name": stem != actual_stem or (same_type and suffix != actual_suffix),
        "with accents encoded as in the file's name": (tail == name) != (found == actual),
    }
    return " and ".join(text for text, differs in differences.items() if differs)


def _parts(path: str) -> list[str]:
    return [part for part in map(_bare, re.split(r"[\\/]", path)) if part not in ("", ".")]


def _bare(name: str) -> str:
    return name.strip().strip("\"'").strip()


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", _bare(name)).casefold()


def _stem(name: str) -> str:
    """A name without its extension; the slash keeps it apart from whole names."""
    return f"{posixpath.splitext(_key(name))[0]}/"
