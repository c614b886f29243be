"""Validation: quarantine, warnings, errors that stop the run, and the report page."""

from __future__ import annotations

import shutil
from pathlib import Path

import great_expectations.expectations as gxe
import numpy as np
import pytest
from bad_files import noise_image, sparse_squares
from PIL import Image, ImageEnhance

from graft.cli import main
from graft.config.parameters import BadImagesConfig, ValidationConfig
from graft.data.expectation_runner import ExpectationRunner, write_data_docs
from graft.data.expectations import Check
from graft.data.manifest import scan
from graft.data.validation import validate_images
from graft.data.validation_report import ValidationReport, check_blocking_errors
from graft.errors import DataError
from graft.reports.validation_page import validation_page

CONFIG = ValidationConfig()
TOLERANT = BadImagesConfig(max_quarantined_fraction=0.5)


def validate(
    root: Path, config: ValidationConfig = CONFIG, folds: int = 2, bad_images: BadImagesConfig = TOLERANT
) -> ValidationReport:
    return validate_images(scan(root), config, folds, bad_images)


def warnings(report: ValidationReport) -> dict[str, list[str]]:
    """The failing images or classes of each warning, by its name."""
    return {result.name: result.failing for result in report.failed("warning")}


def blocking_error(report: ValidationReport) -> str:
    with pytest.raises(DataError) as error:
        check_blocking_errors(report)
    assert "Not ready for training" in validation_page(report)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_good_images_pass_every_check(shapes: Path) -> None:
    report = validate(shapes, bad_images=BadImagesConfig(max_quarantined_fraction=0))
    assert [result.name for result in report.check_results if not result.passed] == []
    assert report.quarantine.empty
    assert report.images_per_class == {"blue": 12, "red": 12}
    check_blocking_errors(report)


def test_every_threshold_has_a_check_and_every_check_an_existing_key(shapes: Path) -> None:
    check_results = validate(shapes).check_results
    assert len(check_results) >= 15
    assert len({result.name for result in check_results}) == len(check_results)
    for result in check_results:
        assert not result.config_key or "." in result.config_key or result.config_key in ValidationConfig.model_fields
    keys = {result.config_key for result in check_results}
    assert set(ValidationConfig.model_fields) - keys == set()


def test_bad_images_are_quarantined_with_reason_and_detail(shapes: Path) -> None:
    (shapes / "red" / "page.jpg").write_text("<html>" * 30)
    Image.effect_noise((8, 60), 50).save(shapes / "red" / "tiny.png")
    Image.effect_noise((600, 40), 50).save(shapes / "blue" / "strip.png")
    report = validate(shapes)
    quarantine = {path: (reason, detail) for path, reason, detail in report.quarantine.to_numpy().tolist()}
    assert quarantine == {
        "red/page.jpg": ("cannot be decoded", "cannot be decoded: cannot identify image file"),
        "red/tiny.png": ("too small", "8 px"),
        "blue/strip.png": ("extreme aspect ratio", "15 to 1"),
    }
    assert report.images_per_class == {"blue": 12, "red": 12}
    check_blocking_errors(report)


def test_image_with_two_labels_is_quarantined_or_warned_of(shapes: Path) -> None:
    shutil.copy(shapes / "red" / "3.png", shapes / "blue" / "copy.png")
    report = validate(shapes)
    assert report.quarantine["path"].tolist() == ["blue/copy.png", "red/3.png"]
    assert set(report.quarantine["detail"]) == {"labelled blue, red"}
    tolerant = validate(shapes, ValidationConfig(on_conflicting_labels="warn"))
    assert tolerant.quarantine.empty
    assert warnings(tolerant)["conflicting labels"] == ["blue/copy.png", "red/3.png"]


def test_duplicates_are_warned_of_and_clustered(shapes: Path) -> None:
    shutil.copy(shapes / "red" / "3.png", shapes / "red" / "copy.png")
    bright = ImageEnhance.Brightness(Image.open(shapes / "blue" / "5.png")).enhance(1.1)
    bright.save(shapes / "red" / "bright.jpg", quality=95)
    report = validate(shapes)
    assert warnings(report) == {
        "exact duplicates": ["red/3.png", "red/copy.png"],
        "near duplicates": ["blue/5.png", "red/bright.jpg"],
        "near duplicates with another label": ["blue/5.png", "red/bright.jpg"],
    }
    assert report.duplicates()["path"].tolist() == ["blue/5.png", "red/bright.jpg", "red/3.png", "red/copy.png"]
    relaxed = ValidationConfig(max_duplicate_fraction=0.1, max_near_duplicate_fraction=0.1, near_duplicate_bits=0)
    assert "exact duplicates" not in warnings(validate(shapes, relaxed))


def test_duplicates_in_two_given_splits_are_warned_of(shapes: Path) -> None:
    for split in ("train", "val"):
        shutil.copytree(shapes / "red", shapes / split / "red")
        shutil.copytree(shapes / "blue", shapes / split / "blue")
    shutil.rmtree(shapes / "red")
    shutil.rmtree(shapes / "blue")
    for path in sorted((shapes / "val").rglob("*.png"))[1:]:
        path.unlink()
    assert warnings(validate(shapes))["in two given splits"] == ["train/blue/0.png", "val/blue/0.png"]


def test_unusual_images_are_warned_of_but_not_quarantined(shapes: Path) -> None:
    sparse_squares(0, 200).save(shapes / "red" / "dark.png")
    Image.effect_noise((60, 60), 80).save(shapes / "red" / "grey.png")
    noise_image(7).resize((600, 500), Image.Resampling.NEAREST).save(shapes / "red" / "large.png")
    Image.open(shapes / "red" / "1.png").transpose(Image.Transpose.ROTATE_90).save(shapes / "red" / "x.jpg", "PNG")
    report = validate(shapes, ValidationConfig(max_grey_fraction=0.01))
    assert warnings(report) == {
        "very dark": ["red/dark.png"],
        "unusual size": ["red/large.png"],
        "wrong file extension": ["red/x.jpg"],
        "mixed grey and colour": ["red/dark.png", "red/grey.png"],
    }
    assert report.quarantine.empty


def test_class_that_is_mostly_grey_is_warned_of(shapes: Path) -> None:
    for path in (shapes / "red").iterdir():
        Image.open(path).convert("L").save(path)
    assert warnings(validate(shapes))["grey correlates with class"] == ["red"]


def test_class_names_that_differ_only_in_case_are_warned_of(shapes: Path) -> None:
    (shapes / "Red ").mkdir()
    for number in range(12):
        (shapes / "red" / f"{number}.png").rename(shapes / ("Red " if number % 2 else "red") / f"{number}.png")
    report = validate(shapes, ValidationConfig(min_images_per_class=5))
    assert warnings(report) == {"similar class names": ["Red ", "red"]}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            ValidationConfig(min_images=100),
            "There must be at least 100 images, but found 24: add images, or relax data.validation.min_images.",
        ),
        (
            ValidationConfig(min_images_per_class=13),
            "Each class must have at least 13 images, but 2 of 2 fail (blue, red): add images of them, or remove "
            "their folders, or relax data.validation.min_images_per_class.",
        ),
        (
            ValidationConfig(min_side_px=47),
            "At most 50 % of the images may be bad, but 14 of 24 are (blue/0.png: too small, blue/1.png: too "
            "small, blue/2.png: too small): replace or remove them, or relax one of "
            "data.validation.min_side_px, data.max_quarantined_fraction.",
        ),
    ],
)
def test_blocking_error_is_a_sentence_with_observation_hint_and_key(
    shapes: Path, config: ValidationConfig, message: str
) -> None:
    assert message in blocking_error(validate(shapes, config))


def test_blocking_error_names_every_failed_check(shapes: Path) -> None:
    error = blocking_error(validate(shapes, ValidationConfig(min_images=100, min_images_per_class=50), folds=20))
    for message in (
        "at least 100 images",
        "at least 50 images",
        "at least 20 distinct training images",
        "cross_validation.folds.",
    ):
        assert message in error


def test_bad_images_block_training_if_on_bad_images_is_fail(shapes: Path) -> None:
    (shapes / "red" / "page.jpg").write_text("<html>" * 30)
    error = blocking_error(validate(shapes, bad_images=BadImagesConfig(on_bad_images="fail")))
    assert error.startswith("No image may be bad, but 1 of 25 are (red/page.jpg: cannot be decoded)")


def test_fold_check_counts_distinct_images_not_files(shapes: Path) -> None:
    for number in range(1, 12):
        shutil.copy(shapes / "red" / "0.png", shapes / "red" / f"{number}.png")
    assert "at least 2 distinct training images, one for each fold, but 1 of 2 fails (red)" in blocking_error(
        validate(shapes)
    )


def test_empty_class_is_named_in_blocking_error(shapes: Path) -> None:
    (shapes / "green").mkdir()
    assert "Each class must have at least 10 images, but 1 of 3 fails (green)" in blocking_error(validate(shapes))


def test_single_class_is_a_blocking_error(shapes: Path) -> None:
    for path in (shapes / "blue").iterdir():
        path.rename(shapes / "red" / f"blue-{path.name}")
    shutil.rmtree(shapes / "blue")
    assert "There must be at least 2 classes, but found 1" in blocking_error(validate(shapes))


def test_path_listed_twice_is_named_in_blocking_error(shapes: Path) -> None:
    rows = [f"{label}/{number}.png,{label}" for label in ("blue", "red") for number in range(12)]
    (shapes / "images.csv").write_text("\n".join(["path,label", *rows, "red/3.png,red"]))
    assert "No path may be listed twice, but 2 of 25 fail (red/3.png)" in blocking_error(
        validate(shapes / "images.csv")
    )


def test_imbalance_threshold_is_not_rounded(shapes: Path) -> None:
    for path in sorted((shapes / "red").iterdir())[1:]:
        path.unlink()
    report = validate(shapes, ValidationConfig(min_images_per_class=1, max_imbalance=11.5))
    assert warnings(report) == {"imbalance": ["red"]}


def test_dataset_without_valid_images_is_a_blocking_error(shapes: Path) -> None:
    for path in shapes.rglob("*.png"):
        path.write_bytes(b"broken")
    error = blocking_error(validate(shapes))
    assert error.startswith("At most 50 % of the images may be bad, but 24 of 24 are")
    assert "at least 80 % of the images must decode" in error.lower()


def test_check_that_cannot_run_raises_data_error(shapes: Path) -> None:
    broken = Check("x", "each is x", "warning", "", "", gxe.ExpectColumnValuesToNotBeNull(column="gone"))
    with pytest.raises(DataError, match="the check that each is x could not run"):
        ExpectationRunner().run("broken", scan(shapes).table, [broken])


def test_validation_page_shows_quarantine_and_is_self_contained(shapes: Path) -> None:
    (shapes / "red" / "<b>.jpg").write_text("<html>" * 30)
    Image.effect_noise((20, 20), 50).save(shapes / "red" / "tiny.png")
    shutil.copy(shapes / "red" / "3.png", shapes / "red" / "copy.png")
    page = validation_page(validate(shapes))
    assert "Ready for training" in page
    assert "&lt;b&gt;.jpg" in page
    assert "1 too small" in page
    assert "red, identical file" in page
    assert page.count("data:image/jpeg") == 3
    assert "http" not in page


def test_validation_page_escapes_class_names(shapes: Path) -> None:
    (shapes / "red").rename(shapes / "$_$ 5 <b>")
    assert "Ready for training" in validation_page(validate(shapes))


def test_write_data_docs_writes_a_page_per_suite(shapes: Path, tmp_path: Path) -> None:
    report = validate(shapes, ValidationConfig(min_images=100))
    pages = write_data_docs(report.raw, tmp_path / "docs")
    assert [page.stem for page in pages] == ["files", "images", "labels", "collection", "classes"]
    assert "greater than or equal to" in pages[3].read_text().lower()


def test_raw_results_contain_no_lists_of_failures(shapes: Path) -> None:
    report = validate(shapes, ValidationConfig(min_sharpness=1e9))
    (result,) = report.failed("warning")
    assert len(result.failing) == 24
    results = [entry["result"] for suite in report.raw for entry in suite["results"]]
    assert not any("unexpected_index_list" in result for result in results)


def test_missing_paths_are_neither_damaged_nor_too_small_and_the_error_says_what_mends_them(shapes: Path) -> None:
    rows = [f"{label}/{number}.png,{label}" for label in ("blue", "red") for number in range(12)]
    rows[3:10] = [row.replace("/", "\\") for row in rows[3:10]]
    (shapes / "images.csv").write_text("\n".join(["path,label", *rows]))
    report = validate(shapes / "images.csv", bad_images=BadImagesConfig(max_quarantined_fraction=0.1))
    assert set(report.quarantine["reason"]) == {"missing"}
    assert report.quarantine["detail"][0] == "does not exist; blue/3.png does"
    failed = [result.name for result in report.check_results if not result.passed]
    assert failed == ["missing", "too few images", "too few images of a class"]
    error = blocking_error(report)
    assert "At most 10 % of the images may be bad, but 7 of 24 are (blue\\3.png: missing" in error
    assert "7 of 24 paths of the table do not exist; 7 would with / for \\ (blue\\3.png means blue/3.png)" in error


def test_quarantine_check_shows_what_is_wrong_with_the_first_images(shapes: Path) -> None:
    (shapes / "red" / "page.jpg").write_text("<html>" * 30)
    report = validate(shapes)
    (result,) = report.failed("quarantine")
    assert result.message == (
        "Each image must decode completely, but 1 of 25 fails (red/page.jpg: cannot be decoded: cannot identify image "
        "file): replace or remove them."
    )


def test_file_that_was_not_read_is_not_too_small(shapes: Path) -> None:
    (shapes / "red" / "gone.png").symlink_to("nowhere.png")
    report = validate(shapes)
    assert [result.name for result in report.failed("quarantine")] == ["cannot be decoded"]
    assert "broken link" in report.failed("quarantine")[0].message


def test_sixteen_bit_images_that_use_little_of_their_range_are_left_out_with_its_share(shapes: Path) -> None:
    values = np.random.default_rng(0).integers(0, 64, (48, 48)).astype(np.uint16)
    Image.fromarray(values).save(shapes / "red" / "six_bits.png")
    Image.fromarray(values * 1000).save(shapes / "red" / "all_bits.png")
    Image.fromarray(values * 0 + 9).save(shapes / "red" / "blank.png")
    report = validate(shapes)
    assert report.quarantine.to_numpy().tolist() == [
        ["red/blank.png", "blank", "contrast 0"],
        ["red/six_bits.png", "unscaled 16-bit values", "uses 0.096 % of its 16-bit range"],
    ]
    unscaled, blank = report.failed("quarantine")
    assert "1 of 27 fails (red/blank.png: contrast 0)" in blank.message
    assert "(red/six_bits.png: uses 0.096 % of its 16-bit range): multiply them so that they reach 65535" in (
        unscaled.message
    )


def test_remarks_are_shown_on_the_page_and_in_a_blocking_error(shapes: Path) -> None:
    (shapes / "red").rename(shapes / "test")
    page = validation_page(validate(shapes))
    assert "Read as one folder per class: 24 images in 2 classes: blue (12), test (12)." in page
    assert "A class is named like a split: test;" in page
    error = blocking_error(validate(shapes, ValidationConfig(min_images=100)))
    assert error.index("at least 100 images") < error.index("A class is named like a split: test;")


def test_validation_page_has_no_control_characters(shapes: Path) -> None:
    (shapes / "red").rename(shapes / "\x1b[31mred\x07")
    (shapes / "blue" / "a\x1b.jpg").write_text("<html>" * 30)
    page = validation_page(validate(shapes))
    assert "\\x1b[31mred\\x07" in page
    assert "\x1b" not in page
    assert "\x07" not in page


def test_check_prints_how_the_folder_was_read(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (shapes / "red").rename(shapes / "val_red")
    (tmp_path / "x.yaml").write_text(f"parameters: {{data: {{root: '{shapes}'}}}}")
    assert main(["check", "x.yaml"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Read as one folder per class: 24 images in 2 classes: blue (12), val_red (12)."
    assert lines[1].startswith("A class is named like a split: val_red;")
