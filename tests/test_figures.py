"""Figures can be read whatever the names of the classes, and however many there are."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

from graft.evaluation.metrics import Predictions
from graft.reports import labels
from graft.reports.figures import as_image, class_histogram, confusion, mistakes
from graft.reports.labels import drawable, fallback_families, shorten

NAMES = {
    "Chinese": [f"{a}{b}" for a in "猫狗鸟鱼" for b in "红蓝"],
    "long": [f"{number} {'a rather long name of a class ' * 3}{number}" for number in range(8)],
    "very long": [f"{letter * 125}{number}{letter * 125}" for number, letter in enumerate("WMilwm_$")],
    "symbols": ["$x$", "a_b", "$\\frac{1}$", "^2", "\\", "{", "%", "a\\$b"],
    "control characters": ["a\tb", "c\nd", "\x1b[2J", "\x00", "\u202egnp", "\x7f", "\x85", "\r"],
    "accents": ["größer", "naïve", "Łódź", "Ελλάδα", "Кошка", "ﬁ", "e\u0301", "ñ"],
}


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def make_predictions(classes: list[str], images: int = 60) -> Predictions:
    """Predictions of which about half are wrong."""
    generator = np.random.default_rng(0)
    true = np.arange(images) % len(classes)
    logits = generator.normal(0, 1, (images, len(classes))).astype(np.float32)
    logits[np.arange(images), true] += 1.5
    return Predictions([f"{number}.png" for number in range(images)], true, logits, classes)


def make_figures(classes: list[str]) -> list[Figure]:
    predictions = make_predictions(classes)
    counts = {name: 10 + number for number, name in enumerate(classes)}
    return [confusion(predictions), class_histogram(counts), mistakes(predictions, Path("missing"))]


@pytest.mark.parametrize("kind", NAMES)
def test_figures_show_every_name_within_the_image(kind: str) -> None:
    for figure in make_figures(NAMES[kind]):
        as_image(figure)
        drawn = figure.get_tightbbox()
        width, height = figure.get_size_inches()
        assert -0.01 <= drawn.x0 < drawn.x1 <= width + 0.01
        assert -0.01 <= drawn.y0 < drawn.y1 <= height + 0.01
        shown = [text.get_text() for text in figure.findobj(Text)]
        assert all(text.replace("\n", "").isprintable() for text in shown)


@pytest.mark.parametrize("kind", NAMES)
def test_labels_do_not_overlap(kind: str) -> None:
    for figure in make_figures(NAMES[kind]):
        as_image(figure)
        captions = [axes.title for axes in figure.axes if axes.title.get_text()]
        names = captions or figure.axes[0].get_yticklabels()
        assert len(names) >= len(NAMES[kind])
        boxes = [name.get_window_extent() for name in names]
        assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def test_names_with_dollar_signs_are_not_formulas() -> None:
    assert drawable(["$x$", "a_b"])[0] == ["$x$", "a_b"]
    (figure,) = [class_histogram({"$x$": 1, "a_b": 2})]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["$x$", "a_b"]
    assert not any(label.get_parse_math() for label in figure.axes[0].get_yticklabels())


@pytest.fixture
def _only_usual_font(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    usual = [font for font in font_manager.fontManager.ttflist if font.name == "DejaVu Sans"]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", usual)
    fallback_families.cache_clear()
    labels._report_missing.cache_clear()
    yield
    fallback_families.cache_clear()


@pytest.mark.usefixtures("_only_usual_font")
def test_without_a_font_names_become_different_escapes_and_one_sentence_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        assert drawable(["中文", "a日", "ant"]) == (["\\u4e2d\\u6587", "a\\u65e5", "ant"], ["sans-serif"])
        drawable(["日本"])
    (message,) = caplog.messages
    assert message.startswith("No installed font has the CJK characters of some class names")


def test_installed_font_draws_what_the_usual_one_lacks() -> None:
    usual = labels._characters(font_manager.findfont("DejaVu Sans"))
    others = labels._characters(font_manager.findfont("STIXGeneral"))
    rare = min(character for character in others - usual if character.isprintable())
    families, missing = fallback_families(frozenset({rare}))
    assert len(families) == 1
    assert not missing
    names, fonts = drawable([rare, "ant"])
    assert (names, fonts) == ([rare, "ant"], ["sans-serif", *families])
    as_image(class_histogram({rare: 1, "ant": 2}))


@given(st.text(max_size=60), st.integers(3, 30))
def test_shorten_keeps_both_ends_and_the_width(text: str, width: int) -> None:
    short = shorten(text, width)
    assert labels._widths(short)[-1:] <= [width]
    if short != text:
        head, tail = short.split("…")[0], short.split("…")[-1]
        assert text.startswith(head)
        assert text.endswith(tail)


def test_middle_of_a_long_name_is_replaced_by_an_ellipsis() -> None:
    assert shorten("abcdefghij", 10) == "abcdefghij"
    assert shorten("abcdefghijk", 10) == "abcde…hijk"
    assert shorten("中文" * 6, 10) == "中文…文中文"[:2] + "…中文"


def test_long_names_that_differ_in_the_middle_have_different_labels() -> None:
    names = [f"a photograph of species {number} in its habitat" for number in (1, 12, 123)]
    assert drawable([*names, names[0], "ant"])[0] == [
        "…ecies 1 in its habitat", "…ecies 12 in its habitat", "…ecies 123 in its habitat", "…ecies 1 in its habitat",
        "ant",
    ]  # fmt: skip
    many = [f"{'prefix ' * 9}{number}{' suffix' * 9}" for number in range(1000)]
    assert len(set(drawable(many)[0])) == 1000


def test_confusion_of_many_classes_shows_the_most_frequent_confusions() -> None:
    classes = [f"class {number}" for number in range(1000)]
    true = np.arange(1000).repeat(3)
    predicted = true.copy()
    predicted[[0, 1, 2, 30, 31, 60]] = [7, 7, 7, 5, 5, 9]
    logits = np.zeros((3000, 1000), np.float32)
    logits[np.arange(3000), predicted] = 1
    figure = confusion(Predictions(["x.png"] * 3000, true, logits, classes))
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "class 0, predicted class 7", "class 10, predicted class 5", "class 20, predicted class 9",
    ]  # fmt: skip
    assert [bar.get_width() for bar in axes.patches] == [3, 2, 1]  # type: ignore[attr-defined]
    assert max(as_image(figure).size) < 2000


def test_confusion_of_many_classes_without_mistakes_is_an_empty_chart() -> None:
    classes = [f"class {number}" for number in range(50)]
    figure = confusion(Predictions(["x.png"] * 50, np.arange(50), np.eye(50, dtype=np.float32), classes))
    as_image(figure)
    assert "100.0% of 50 images" in figure.get_suptitle()


def test_histogram_of_many_classes_shows_the_largest_and_the_smallest() -> None:
    figure = class_histogram({f"class {number}": 1 + number for number in range(1000)})
    (axes,) = figure.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert (names[0], names[19:22], names[-1]) == (
        "class 999", ["class 980", "… 960 classes between", "class 19"], "class 0",
    )  # fmt: skip
    assert [bar.get_width() for bar in axes.patches][::40] == [1000, 1]  # type: ignore[attr-defined]
    assert figure.get_suptitle() == "500500 images in 1000 classes"
    assert max(as_image(figure).size) < 2000
