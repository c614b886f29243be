"""Class names as labels of figures: printable, short, and in fonts that have their characters."""

from __future__ import annotations

import logging
import unicodedata
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from itertools import accumulate
from os.path import commonprefix

import matplotlib as mpl
from matplotlib import font_manager

from graft.errors import printable

logger = logging.getLogger(__name__)
MAX_WIDTH = 28  # characters of a label; East Asian ones count twice
NO_FALLBACK = ("lastresort", "last resort", "blank")  # fonts that draw all characters, as boxes or not at all


def drawable(names: Iterable[str], max_width: int = MAX_WIDTH) -> tuple[list[str], list[str]]:
    """Each name as one line of at most ``max_width`` characters, and the font families to draw them with.

    Installed fonts are added for what the usual one lacks. Characters that no font has become escapes, which differ,
    where boxes would all look the same.
    """
    texts = [printable(name) for name in names]
    usual = _characters(font_manager.findfont(font_manager.FontProperties()))
    families, missing = fallback_families(frozenset(set("".join(texts)) - usual))
    for script in sorted({_script(character) for character in missing}):
        _report_missing(script)
    escapes = {ord(character): character.encode("unicode_escape").decode() for character in missing}
    labels = _distinct_labels([text.translate(escapes) for text in texts], max_width)
    return labels, [*mpl.rcParams["font.family"], *families]


def shorten(text: str, max_width: int) -> str:
    """The text, or its beginning and its end around an ellipsis if it is wider than ``max_width`` characters."""
    if _widths(text)[-1:] <= [max_width]:
        return text
    head = text[: bisect_right(_widths(text), max_width // 2)]
    tail = text[::-1][: bisect_right(_widths(text[::-1]), (max_width - 1) // 2)][::-1]
    return f"{head}…{tail}"


def _distinct_labels(texts: list[str], max_width: int) -> list[str]:
    """The texts shortened; of those that would then look the same, most of the common beginning is left out instead."""
    labels = [shorten(text, max_width) for text in texts]
    groups: defaultdict[str, set[str]] = defaultdict(set)
    for text, label in zip(texts, labels, strict=True):
        groups[label].add(text)
    starts = {
        label: max(0, len(commonprefix(list(group))) - max_width // 4)  # noqa: RUF071 - of characters, not of paths
        for label, group in groups.items()
        if len(group) > 1
    }
    return [
        "…" + shorten(text[starts[label] :], max_width - 1) if label in starts else label
        for text, label in zip(texts, labels, strict=True)
    ]


@cache
def fallback_families(characters: frozenset[str]) -> tuple[list[str], frozenset[str]]:
    """Families of installed fonts that have these characters, and the characters that no font has."""
    families = []
    fonts = sorted(font_manager.fontManager.ttflist, key=lambda font: (font.style == "normal", font.weight == 400))
    paths = {font.name: font.fname for font in fonts}  # of a family's files, the last: upright, of normal weight
    for name in sorted(paths, key=lambda name: ("CJK" not in name, "Sans" not in name, name)):
        if not characters:
            break
        if any(word in name.lower() for word in NO_FALLBACK):
            continue
        available = _characters(paths[name])
        if characters & available:
            families.append(name)
            characters -= available
    return families, characters


@cache
def _characters(path: str) -> frozenset[str]:
    """The characters of a font file; none of a font of bitmaps, such as colour emoji, which cannot be scaled."""
    font = font_manager.get_font(path)
    return frozenset(map(chr, font.get_charmap())) if font.scalable else frozenset()


def _widths(text: str) -> list[int]:
    """The width of each beginning of the text."""
    return list(accumulate(1 + (unicodedata.east_asian_width(character) in "WF") for character in text))


def _script(character: str) -> str:
    """A name for the script of a letter, such as CJK or HANGUL."""
    is_letter = unicodedata.category(character)[0] in "LM"
    return unicodedata.name(character, "UNNAMED").split()[0] if is_letter else "SYMBOL"


@cache
def _report_missing(script: str) -> None:
    logger.warning(
        "No installed font has the %s characters of some class names, so figures show their codes; install a font "
        "that has them, such as one of the Noto fonts.", script,
    )  # fmt: skip
