"""Materializers load what they saved; pages and figures are complete; a full disk is one sentence."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import matplotlib as mpl
import pandas as pd
import pytest

from graft.config.parameters import ValidationConfig
from graft.data.manifest import Manifest, scan
from graft.data.validation import validate_images
from graft.data.validation_report import Quarantine, ValidationReport
from graft.errors import StorageError
from graft.reports.figures import as_image, class_histogram
from graft.reports.pages import manifest_page, page
from graft.reports.training_figures import learning_curves
from graft.reports.validation_page import validation_page
from graft.training.history import EpochMetrics

T = TypeVar("T")


@pytest.fixture(scope="module")
def validated(digits: Path) -> tuple[Manifest, ValidationReport]:
    manifest = scan(digits)
    return manifest, validate_images(manifest, ValidationConfig(min_side_px=8, min_sharpness=1e9), 2)


def store(folder: Path) -> Any:  # noqa: ANN401
    folder.mkdir()
    return SimpleNamespace(open=lambda uri, mode: Path(uri).open(mode), path=str(folder))


def save_and_load(materializer: Any, data: T) -> T:  # noqa: ANN401
    materializer.save(data)
    loaded = materializer.load(type(data))
    assert isinstance(loaded, type(data))
    return loaded


def test_manifest_is_loaded_as_saved(validated: tuple[Manifest, ValidationReport], tmp_path: Path) -> None:
    from materializers import ManifestMaterializer

    manifest, _ = validated
    materializer = ManifestMaterializer(str(tmp_path / "a"), store(tmp_path / "a"))
    loaded = save_and_load(materializer, manifest)
    pd.testing.assert_frame_equal(loaded.table, manifest.table)
    pd.testing.assert_frame_equal(loaded.skipped, manifest.skipped)
    assert (loaded.root, loaded.empty_classes) == (manifest.root, manifest.empty_classes)
    assert (loaded.reading, loaded.remarks) == (manifest.reading, manifest.remarks)
    assert materializer.compute_content_hash(loaded) == materializer.compute_content_hash(manifest)
    moved = replace(manifest, root="/elsewhere")
    assert materializer.compute_content_hash(moved) == materializer.compute_content_hash(manifest)


def test_pages_contain_their_figures(validated: tuple[Manifest, ValidationReport]) -> None:
    manifest, report = validated
    for html, figures in ((manifest_page(manifest), 1), (validation_page(report), 2)):
        assert html.count('src="data:image/png;base64,iVBOR') == figures


def test_page_escapes_control_characters_and_markup() -> None:
    html = page("Title", "\x1b[2J \u202everdict", tables={"a\0": (("b\nc",), [["<i>\t"]])})
    assert html.replace("\n", "").isprintable()
    for text in (r"\x1b[2J \u202everdict", r"<h2>a\x00</h2>", r"<th>b\nc</th>", r"<td>&lt;i&gt;\t</td>"):
        assert text in html


def test_figure_background_is_white_in_any_matplotlib_style() -> None:
    with mpl.rc_context({"figure.facecolor": "black"}):
        figure = class_histogram({"ant": 2, "bee": 1})
    image = as_image(figure, dpi=50)
    width, height = figure.get_size_inches()
    assert image.size == (int(50 * width), int(50 * height))
    assert image.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("epochs", [1, 12, 300])
def test_learning_curves_have_separate_epoch_labels_and_fit_into_the_image(epochs: int) -> None:
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


def test_learning_curves_of_a_training_without_validation_images_are_its_loss_alone() -> None:
    figure = learning_curves([EpochMetrics(1.5), EpochMetrics(1.0)], [])
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.get_lines()] == ["training"]


def test_validation_report_is_loaded_as_saved(validated: tuple[Manifest, ValidationReport], tmp_path: Path) -> None:
    from materializers import QuarantineMaterializer, ValidationReportMaterializer

    _, report = validated
    materializer = ValidationReportMaterializer(str(tmp_path / "a"), store(tmp_path / "a"))
    loaded = save_and_load(materializer, report)
    pd.testing.assert_frame_equal(loaded.table, report.table)
    assert (loaded.check_results, loaded.images_per_class, loaded.raw) == (
        report.check_results,
        report.images_per_class,
        report.raw,
    )
    assert loaded.thumbnails == report.thumbnails
    assert loaded.thumbnails
    assert len(materializer.save_visualizations(loaded)) == 1

    quarantine = Quarantine(pd.DataFrame({"path": ["a\nb.png"], "reason": ["blank"], "detail": [""]}, dtype="str"))
    other = QuarantineMaterializer(str(tmp_path / "b"), store(tmp_path / "b"))
    pd.testing.assert_frame_equal(save_and_load(other, quarantine).table, quarantine.table)
    assert other.extract_metadata(quarantine) == {"images": 1, "reasons": {"blank": 1}}


def test_validation_report_hash_covers_what_later_steps_read(
    validated: tuple[Manifest, ValidationReport], tmp_path: Path
) -> None:
    from materializers import ValidationReportMaterializer

    manifest, report = validated
    materializer = ValidationReportMaterializer(str(tmp_path / "a"), store(tmp_path / "a"))
    same = validate_images(manifest, ValidationConfig(min_side_px=8, min_sharpness=10.0), 2)
    other = replace(report, table=report.table.assign(cluster=0))
    assert materializer.compute_content_hash(same) == materializer.compute_content_hash(report)
    assert materializer.compute_content_hash(other) != materializer.compute_content_hash(report)


def test_full_disk_raises_storage_error_with_path_and_hint(
    validated: tuple[Manifest, ValidationReport], tmp_path: Path
) -> None:
    from materializers import ManifestMaterializer

    full_store = store(tmp_path / "a")
    full_store.open = lambda *_: os.write(os.open("/dev/full", os.O_WRONLY), b"x")
    materializer = ManifestMaterializer(str(tmp_path / "a"), full_store)
    with pytest.raises(
        StorageError, match=r"manifest\.parquet: cannot be written \(No space left on device\); make room"
    ):
        materializer.save(validated[0])
