"""What is stored is what was there, and an artifact that cannot be written is one sentence."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import matplotlib as mpl
import pandas as pd
import pytest

from graft.config import ValidationConfig
from graft.data.manifest import Manifest, scan
from graft.data.validation import validate
from graft.data.validation_report import Quarantine, ValidationReport
from graft.errors import StorageError
from graft.learning.history import EpochMetrics
from graft.reports.figures import as_image, class_histogram, learning_curves
from graft.reports.pages import manifest_page
from graft.reports.validation_page import validation_page

T = TypeVar("T")


@pytest.fixture(scope="module")
def judged(digits: Path) -> tuple[Manifest, ValidationReport]:
    manifest = scan(digits)
    return manifest, validate(manifest, ValidationConfig(min_side_px=8, near_duplicate_bits=4), 2)


def store(folder: Path) -> Any:  # noqa: ANN401
    folder.mkdir()
    return SimpleNamespace(open=lambda place, mode: Path(place).open(mode), path=str(folder))


def stored_and_loaded(materializer: Any, data: T) -> T:  # noqa: ANN401
    materializer.save(data)
    back = materializer.load(type(data))
    assert isinstance(back, type(data))
    return back


def test_a_manifest_comes_back(judged: tuple[Manifest, ValidationReport], tmp_path: Path) -> None:
    from materializers import ManifestMaterializer

    manifest, _ = judged
    materializer = ManifestMaterializer(str(tmp_path / "a"), store(tmp_path / "a"))
    back = stored_and_loaded(materializer, manifest)
    pd.testing.assert_frame_equal(back.table, manifest.table)
    pd.testing.assert_frame_equal(back.ignored, manifest.ignored)
    assert (back.root, back.empty_classes) == (manifest.root, manifest.empty_classes)
    assert materializer.compute_content_hash(back) == materializer.compute_content_hash(manifest)
    moved = Manifest(manifest.table, "/elsewhere", manifest.ignored, manifest.empty_classes)
    assert materializer.compute_content_hash(moved) == materializer.compute_content_hash(manifest)


def test_the_pages_hold_their_figures(judged: tuple[Manifest, ValidationReport]) -> None:
    manifest, report = judged
    for page, figures in ((manifest_page(manifest), 1), (validation_page(report), 2)):
        assert page.count('src="data:image/png;base64,iVBOR') == figures


def test_a_figure_is_dark_on_white_whatever_a_users_style_says() -> None:
    with mpl.rc_context({"figure.facecolor": "black"}):
        figure = class_histogram({"ant": 2, "bee": 1})
    image = as_image(figure, dpi=50)
    width, height = figure.get_size_inches()
    assert image.size == (int(50 * width), int(50 * height))
    assert image.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("epochs", [1, 12, 300])
def test_the_epochs_stand_apart_under_learning_curves_and_all_is_within_the_picture(epochs: int) -> None:
    history = [EpochMetrics(1.5, 250_000.0 * epoch, 0.5, 0.5, 0.5) for epoch in range(epochs)]
    figure = learning_curves(history[:4], history[4:])
    as_image(figure)
    for axes in figure.axes:
        first, last = axes.get_xlim()
        labels = [label for label in axes.get_xticklabels() if first <= label.get_position()[0] <= last]
        boxes = [label.get_window_extent() for label in labels]
        assert 1 <= len(labels) <= 11
        assert all(label.get_text().isdecimal() for label in labels)
        assert all(before.x1 + 4 < after.x0 for before, after in pairwise(boxes))
        box = axes.get_tightbbox()
        assert box is not None
        assert figure.bbox.contains(box.x0, box.y0)
        assert figure.bbox.contains(box.x1, box.y1)


def test_a_report_comes_back(judged: tuple[Manifest, ValidationReport], tmp_path: Path) -> None:
    from materializers import QuarantineMaterializer, ValidationReportMaterializer

    _, report = judged
    materializer = ValidationReportMaterializer(str(tmp_path / "a"), store(tmp_path / "a"))
    back = stored_and_loaded(materializer, report)
    pd.testing.assert_frame_equal(back.table, report.table)
    assert (back.outcomes, back.images_per_class, back.raw) == (
        report.outcomes,
        report.images_per_class,
        report.raw,
    )
    assert back.thumbnails == report.thumbnails
    assert back.thumbnails
    assert len(materializer.save_visualizations(back)) == 1

    quarantine = Quarantine(pd.DataFrame({"path": ["a\nb.png"], "reason": ["blank"], "detail": [""]}, dtype="str"))
    other = QuarantineMaterializer(str(tmp_path / "b"), store(tmp_path / "b"))
    pd.testing.assert_frame_equal(stored_and_loaded(other, quarantine).table, quarantine.table)
    assert other.extract_metadata(quarantine) == {"images": 1, "reasons": {"blank": 1}}


def test_the_content_of_a_report_is_what_goes_on_from_it(
    judged: tuple[Manifest, ValidationReport], tmp_path: Path
) -> None:
    from materializers import ValidationReportMaterializer

    manifest, report = judged
    materializer = ValidationReportMaterializer(str(tmp_path / "a"), store(tmp_path / "a"))
    same, other = (
        validate(manifest, ValidationConfig(min_side_px=8, near_duplicate_bits=bits, min_sharpness=sharpness), 2)
        for bits, sharpness in ((4, 1e9), (0, 10.0))
    )
    assert materializer.compute_content_hash(same) == materializer.compute_content_hash(report)
    assert materializer.compute_content_hash(other) != materializer.compute_content_hash(report)


def test_a_full_disk_is_one_sentence(judged: tuple[Manifest, ValidationReport], tmp_path: Path) -> None:
    from materializers import ManifestMaterializer

    place = store(tmp_path / "a")
    place.open = lambda *_: os.write(os.open("/dev/full", os.O_WRONLY), b"x")
    materializer = ManifestMaterializer(str(tmp_path / "a"), place)
    with pytest.raises(
        StorageError, match=r"manifest\.parquet: cannot be written \(No space left on device\); make room"
    ):
        materializer.save(judged[0])
