"""Every faulty file ends in quarantine, a warning or the skipped files; none crashes or hangs the scan."""

from __future__ import annotations

import os

import pytest
from bad_files import FILES, BadFile, noise_image

from graft.config.parameters import ValidationConfig
from graft.data.images import read_rgb
from graft.data.manifest import Manifest, scan
from graft.data.validation import validate_images
from graft.data.validation_report import ValidationReport
from graft.reports.validation_page import validation_page

Validated = tuple[Manifest, ValidationReport]


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> Validated:
    """A folder of good images with every bad file among them."""
    root = tmp_path_factory.mktemp("bad_files")
    for label in ("odd", "plain"):
        (root / label).mkdir()
    for number in range(60):
        noise_image(1000 + number).save(root / "plain" / f"{number}.png")
    for file in FILES:
        file.make(root / "odd" / file.name)
    manifest = scan(root)
    return manifest, validate_images(manifest, ValidationConfig(), 2)


def test_bad_files_are_many_and_have_different_names() -> None:
    assert len(FILES) >= 60
    assert len({file.name for file in FILES}) == len(FILES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: ascii(file.name)[:40])
def test_bad_file_has_expected_outcome(validated: Validated, file: BadFile) -> None:
    manifest, report = validated
    path = "odd/" + os.fsencode(file.name).decode("utf-8", "backslashreplace")
    images = report.table.set_index("path")
    if path in images.index:
        image = images.loc[path]
        assert (image["reason"] or "valid") == file.outcome
        assert file.detail in image["detail"]
        assert image["label"] == "odd"
    else:
        counts = dict(zip(manifest.skipped["reason"], manifest.skipped["count"], strict=True))
        assert file.outcome == "ignored" or counts.get(file.outcome, 0) > 0
    warnings = {result.name for result in report.failed("warning") if path in result.failing}
    assert warnings - {"mixed grey and colour"} == ({file.warning} if file.warning else set())


def test_valid_image_is_readable_at_its_recorded_size(validated: Validated) -> None:
    manifest, report = validated
    valid = manifest.table[manifest.table["path"].isin(report.clusters)]
    columns = (valid[name] for name in ("path", "sha256", "height_px", "width_px"))
    for path, sha256, height, width in zip(*columns, strict=True):
        assert read_rgb(manifest.folder() / path, sha256).shape == (height, width, 3)


def test_undecodable_file_is_rejected_by_read_rgb(validated: Validated) -> None:
    manifest, report = validated
    for path in report.quarantine.loc[report.quarantine["reason"] == "cannot be decoded", "path"]:
        full_path = manifest.folder() / path
        if full_path.is_file():
            with pytest.raises(Exception, match=r"cannot|empty|floating|pixels"):
                read_rgb(full_path)


def test_validation_page_shows_skipped_files_and_is_self_contained(validated: Validated) -> None:
    manifest, report = validated
    page = validation_page(report)
    assert "\x1b" not in "".join(result.message for result in report.check_results)
    assert "links out of the folder" in page
    assert "http" not in page
    assert manifest.skipped["count"].sum() == sum(file.outcome.endswith(("files", "folder", "links")) for file in FILES)
