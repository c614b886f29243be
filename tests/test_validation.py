"""What is wrong with the images is found, named and weighed; nothing is changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import great_expectations.expectations as gxe
import pytest
from bad_files import picture, stars
from PIL import Image, ImageEnhance

from graft.config import BadImagesConfig, ValidationConfig
from graft.data.expectations import Check
from graft.data.judge import Judge, write_data_docs
from graft.data.manifest import scan
from graft.data.validation import validate
from graft.data.validation_report import ValidationReport, require_fit
from graft.errors import DataError
from graft.reports.validation_page import validation_page

CONFIG = ValidationConfig()
PATIENT = BadImagesConfig(max_quarantined_fraction=0.5)


def judged(
    root: Path, config: ValidationConfig = CONFIG, folds: int = 2, bad: BadImagesConfig = PATIENT
) -> ValidationReport:
    return validate(scan(root), config, folds, bad)


def told(report: ValidationReport) -> dict[str, list[str]]:
    """What fails each warning, by its name."""
    return {outcome.name: outcome.failing for outcome in report.failed("warning")}


def refusal(report: ValidationReport) -> str:
    with pytest.raises(DataError) as error:
        require_fit(report)
    assert "Not fit to train on" in validation_page(report)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_good_images_pass_every_check(shapes: Path) -> None:
    report = judged(shapes, bad=BadImagesConfig(max_quarantined_fraction=0))
    assert [outcome.name for outcome in report.outcomes if not outcome.passed] == []
    assert report.quarantine.empty
    assert report.images_per_class == {"blue": 12, "red": 12}
    require_fit(report)


def test_there_are_many_checks_each_with_a_key_that_exists(shapes: Path) -> None:
    outcomes = judged(shapes).outcomes
    assert len(outcomes) >= 15
    assert len({outcome.name for outcome in outcomes}) == len(outcomes)
    for outcome in outcomes:
        assert not outcome.key or "." in outcome.key or outcome.key in ValidationConfig.model_fields
    thresholds = {outcome.key for outcome in outcomes}
    assert set(ValidationConfig.model_fields) - thresholds == set()


def test_bad_images_are_left_out_with_reason_and_detail(shapes: Path) -> None:
    (shapes / "red" / "page.jpg").write_text("<html>" * 30)
    Image.effect_noise((8, 60), 50).save(shapes / "red" / "tiny.png")
    Image.effect_noise((600, 40), 50).save(shapes / "blue" / "strip.png")
    report = judged(shapes)
    rows = {path: (reason, detail) for path, reason, detail in report.quarantine.to_numpy().tolist()}
    assert rows == {
        "red/page.jpg": ("cannot be decoded", "cannot be decoded: cannot identify image file"),
        "red/tiny.png": ("too small", "8 px"),
        "blue/strip.png": ("too long and thin", "15 to 1"),
    }
    assert report.images_per_class == {"blue": 12, "red": 12}
    require_fit(report)


def test_one_picture_under_two_labels_is_left_out_or_told(shapes: Path) -> None:
    shutil.copy(shapes / "red" / "3.png", shapes / "blue" / "copy.png")
    report = judged(shapes)
    assert report.quarantine["path"].tolist() == ["blue/copy.png", "red/3.png"]
    assert set(report.quarantine["detail"]) == {"found as blue, red"}
    warned = judged(shapes, ValidationConfig(on_conflicting_labels="warn"))
    assert warned.quarantine.empty
    assert told(warned)["conflicting labels"] == ["blue/copy.png", "red/3.png"]


def test_duplicates_are_told_and_clustered(shapes: Path) -> None:
    shutil.copy(shapes / "red" / "3.png", shapes / "red" / "copy.png")
    bright = ImageEnhance.Brightness(Image.open(shapes / "blue" / "5.png")).enhance(1.1)
    bright.save(shapes / "red" / "bright.jpg", quality=95)
    report = judged(shapes)
    assert told(report) == {
        "exact duplicates": ["red/3.png", "red/copy.png"],
        "near duplicates": ["blue/5.png", "red/bright.jpg"],
        "near duplicates with another label": ["blue/5.png", "red/bright.jpg"],
    }
    assert report.duplicates()["path"].tolist() == ["blue/5.png", "red/bright.jpg", "red/3.png", "red/copy.png"]
    relaxed = ValidationConfig(max_duplicate_fraction=0.1, max_near_duplicate_fraction=0.1, near_duplicate_bits=0)
    assert "exact duplicates" not in told(judged(shapes, relaxed))


def test_a_picture_in_two_given_splits_is_told(shapes: Path) -> None:
    for split in ("train", "val"):
        shutil.copytree(shapes / "red", shapes / split / "red")
        shutil.copytree(shapes / "blue", shapes / split / "blue")
    shutil.rmtree(shapes / "red")
    shutil.rmtree(shapes / "blue")
    for path in sorted((shapes / "val").rglob("*.png"))[1:]:
        path.unlink()
    assert told(judged(shapes))["in two given splits"] == ["train/blue/0.png", "val/blue/0.png"]


def test_odd_images_are_told_but_stay(shapes: Path) -> None:
    stars(0, 200).save(shapes / "red" / "dark.png")
    Image.effect_noise((60, 60), 80).save(shapes / "red" / "grey.png")
    picture(7).resize((600, 500), Image.Resampling.NEAREST).save(shapes / "red" / "large.png")
    Image.open(shapes / "red" / "1.png").transpose(Image.Transpose.ROTATE_90).save(shapes / "red" / "x.jpg", "PNG")
    report = judged(shapes, ValidationConfig(max_grey_fraction=0.01))
    assert told(report) == {
        "very dark": ["red/dark.png"],
        "of an unusual size": ["red/large.png"],
        "named as another format": ["red/x.jpg"],
        "grey among colour, or the reverse": ["red/dark.png", "red/grey.png"],
    }
    assert report.quarantine.empty


def test_a_class_that_is_grey_where_others_are_not_is_told(shapes: Path) -> None:
    for path in (shapes / "red").iterdir():
        Image.open(path).convert("L").save(path)
    assert told(judged(shapes))["grey tells the class"] == ["red"]


def test_classes_that_differ_in_case_alone_are_told(shapes: Path) -> None:
    (shapes / "Red ").mkdir()
    for number in range(12):
        (shapes / "red" / f"{number}.png").rename(shapes / ("Red " if number % 2 else "red") / f"{number}.png")
    report = judged(shapes, ValidationConfig(min_images_per_class=5))
    assert told(report) == {"alike names": ["Red ", "red"]}


@pytest.mark.parametrize(
    ("config", "words"),
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
def test_unfit_images_stop_the_run_with_a_sentence(shapes: Path, config: ValidationConfig, words: str) -> None:
    assert words in refusal(judged(shapes, config))


def test_every_reason_is_a_sentence_of_its_own(shapes: Path) -> None:
    said = refusal(judged(shapes, ValidationConfig(min_images=100, min_images_per_class=50), folds=20))
    for words in (
        "at least 100 images",
        "at least 50 images",
        "at least 20 distinct pictures",
        "cross_validation.folds.",
    ):
        assert words in said


def test_bad_images_can_be_made_to_fail_the_run(shapes: Path) -> None:
    (shapes / "red" / "page.jpg").write_text("<html>" * 30)
    said = refusal(judged(shapes, bad=BadImagesConfig(on_bad_images="fail")))
    assert said.startswith("No image may be bad, but 1 of 25 are (red/page.jpg: cannot be decoded)")


def test_folds_count_distinct_pictures_not_files(shapes: Path) -> None:
    for number in range(1, 12):
        shutil.copy(shapes / "red" / "0.png", shapes / "red" / f"{number}.png")
    assert "at least 2 distinct pictures to train on, one for each fold, but 1 of 2 fails (red)" in refusal(
        judged(shapes)
    )


def test_an_empty_class_is_named(shapes: Path) -> None:
    (shapes / "green").mkdir()
    assert "Each class must have at least 10 images, but 1 of 3 fails (green)" in refusal(judged(shapes))


def test_one_class_is_not_enough(shapes: Path) -> None:
    for path in (shapes / "blue").iterdir():
        path.rename(shapes / "red" / f"blue-{path.name}")
    shutil.rmtree(shapes / "blue")
    assert "There must be at least 2 classes, but found 1" in refusal(judged(shapes))


def test_a_path_listed_twice_is_named(shapes: Path) -> None:
    rows = [f"{label}/{number}.png,{label}" for label in ("blue", "red") for number in range(12)]
    (shapes / "images.csv").write_text("\n".join(["path,label", *rows, "red/3.png,red"]))
    assert "No path may be listed twice, but 2 of 25 fail (red/3.png)" in refusal(judged(shapes / "images.csv"))


def test_a_class_is_too_small_by_less_than_one_image(shapes: Path) -> None:
    for path in sorted((shapes / "red").iterdir())[1:]:
        path.unlink()
    report = judged(shapes, ValidationConfig(min_images_per_class=1, max_imbalance=11.5))
    assert told(report) == {"imbalance": ["red"]}


def test_no_image_left_is_a_sentence(shapes: Path) -> None:
    for path in shapes.rglob("*.png"):
        path.write_bytes(b"broken")
    said = refusal(judged(shapes))
    assert said.startswith("At most 50 % of the images may be bad, but 24 of 24 are")
    assert "at least 80 % of the images must decode" in said.lower()


def test_a_check_that_cannot_run_is_an_error(shapes: Path) -> None:
    broken = Check("x", "each is x", "warning", "", "", gxe.ExpectColumnValuesToNotBeNull(column="gone"))
    with pytest.raises(DataError, match="the check that each is x could not run"):
        Judge()("broken", scan(shapes).table, [broken])


def test_the_page_shows_what_is_left_out_and_needs_no_network(shapes: Path) -> None:
    (shapes / "red" / "<b>.jpg").write_text("<html>" * 30)
    Image.effect_noise((20, 20), 50).save(shapes / "red" / "tiny.png")
    shutil.copy(shapes / "red" / "3.png", shapes / "red" / "copy.png")
    page = validation_page(judged(shapes))
    assert "Fit to train on" in page
    assert "&lt;b&gt;.jpg" in page
    assert "1 too small" in page
    assert "red, the same file" in page
    assert page.count("data:image/jpeg") == 3
    assert "http" not in page


def test_a_class_of_any_name_is_shown(shapes: Path) -> None:
    (shapes / "red").rename(shapes / "$_$ 5 <b>")
    assert "Fit to train on" in validation_page(judged(shapes))


def test_data_docs_can_be_built(shapes: Path, tmp_path: Path) -> None:
    report = judged(shapes, ValidationConfig(min_images=100))
    pages = write_data_docs(report.raw, tmp_path / "docs")
    assert [page.stem for page in pages] == ["files", "pictures", "labels", "collection", "classes"]
    assert "greater than or equal to" in pages[3].read_text().lower()


def test_the_library_s_own_result_stays_small(shapes: Path) -> None:
    report = judged(shapes, ValidationConfig(min_sharpness=1e9))
    (outcome,) = report.failed("warning")
    assert len(outcome.failing) == 24
    results = [one["result"] for suite in report.raw for one in suite["results"]]
    assert not any("unexpected_index_list" in result for result in results)
