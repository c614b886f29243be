"""What is wrong with the images is found, named and weighed; nothing is changed."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from graft.config import ValidationConfig
from graft.errors import DataError
from graft.manifest import scan
from graft.pages import validation_page
from graft.validation import require_fit, validate

SMALL = ValidationConfig(max_quarantined_fraction=0.5)


def add(folder: Path, name: str, size: tuple[int, int], colour: object = (200, 60, 40)) -> None:
    Image.new("RGB", size, colour).save(folder / name)  # type: ignore[arg-type]


def test_good_images_pass_every_check(shapes: Path) -> None:
    report = validate(scan(shapes), SMALL)
    assert [outcome for outcome in report.outcomes if not outcome.passed] == []
    assert report.quarantine.empty
    require_fit(report, SMALL)


def test_bad_images_are_left_out_with_their_reasons(shapes: Path) -> None:
    (shapes / "red" / "page.jpg").write_text("<html>")
    add(shapes / "red", "tiny.png", (8, 60))
    add(shapes / "blue", "strip.png", (600, 40))
    report = validate(scan(shapes), SMALL)
    reasons = dict(zip(report.quarantine["path"], report.quarantine["reason"], strict=True))
    assert reasons == {
        "red/page.jpg": "decodes whole",
        "red/tiny.png": "is at least 32 px wide",
        "blue/strip.png": "has an aspect ratio of at most 8",
    }
    assert report.images_per_class == {"blue": 12, "red": 12}
    require_fit(report, SMALL)


def test_odd_images_are_told_but_stay(shapes: Path) -> None:
    add(shapes / "red", "black.png", (60, 60), (0, 0, 0))
    report = validate(scan(shapes), SMALL)
    assert [outcome.failing for outcome in report.failed("warning")] == [["red/black.png"]]
    assert report.quarantine.empty


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            ValidationConfig(min_images=100),
            "at least 100 images: found 24 (data.validation.min_images relaxes this)",
        ),
        (ValidationConfig(min_images_per_class=13), "each class has at least 13 images: 2 do not: blue, red"),
        (ValidationConfig(min_side_px=46), "12 of 24 images are bad"),
        (
            ValidationConfig(min_side_px=46, on_bad_images="fail"),
            "set data.validation.on_bad_images to quarantine",
        ),
    ],
)
def test_unfit_images_stop_the_run_with_a_sentence(shapes: Path, config: ValidationConfig, words: str) -> None:
    with pytest.raises(DataError) as error:
        require_fit(validate(scan(shapes), config), config)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_every_failed_reason_is_listed(shapes: Path) -> None:
    config = ValidationConfig(min_images=100, min_images_per_class=50)
    with pytest.raises(DataError, match=r"at least 100 images.*; .*at least 50 images"):
        require_fit(validate(scan(shapes), config), config)


def test_a_class_is_too_small_by_less_than_one_image(shapes: Path) -> None:
    for path in sorted((shapes / "red").iterdir())[1:]:
        path.unlink()
    report = validate(scan(shapes), ValidationConfig(min_images_per_class=1, max_imbalance=11.5))
    assert [outcome.key for outcome in report.failed("warning")] == ["max_imbalance"]


def test_a_check_that_cannot_run_is_an_error(shapes: Path) -> None:
    from dataclasses import replace

    from great_expectations import expectations as gxe

    from graft import validation

    broken = replace(
        validation.image_checks(SMALL)[0], expectation=gxe.ExpectColumnValuesToNotBeNull(column="gone")
    )
    with pytest.raises(DataError, match="the check that decodes whole could not run"):
        validation._judge(scan(shapes).table, [broken])


def test_one_class_is_not_enough(shapes: Path) -> None:
    for path in (shapes / "blue").iterdir():
        path.rename(shapes / "red" / f"blue-{path.name}")
    with pytest.raises(DataError, match="at least 2 classes"):
        require_fit(validate(scan(shapes), SMALL), SMALL)


def test_the_page_names_what_is_left_out_and_needs_no_network(shapes: Path) -> None:
    (shapes / "red" / "<b>.jpg").write_text("<html>")
    page = validation_page(validate(scan(shapes), SMALL))
    assert "fit to train on, 1 left out" in page
    assert "red/&lt;b&gt;.jpg" in page
    assert "http" not in page
