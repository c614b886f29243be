"""Whatever lies in a folder ends in quarantine, a warning or a count; nothing crashes, hangs or is mistaken."""

from __future__ import annotations

import os

import pytest
from bad_files import FILES, Kind, picture

from graft.config import ValidationConfig
from graft.data.images import read_rgb
from graft.data.manifest import Manifest, scan
from graft.data.validation import validate
from graft.data.validation_report import ValidationReport
from graft.reports.validation_page import validation_page

Judged = tuple[Manifest, ValidationReport]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    """One folder with a file of every kind among good ones."""
    root = tmp_path_factory.mktemp("wild")
    for label in ("odd", "plain"):
        (root / label).mkdir()
    for number in range(60):
        picture(1000 + number).save(root / "plain" / f"{number}.png")
    for kind in FILES:
        kind.make(root / "odd" / kind.name)
    manifest = scan(root)
    return manifest, validate(manifest, ValidationConfig(), 2)


def test_there_are_many_kinds() -> None:
    assert len(FILES) >= 60
    assert len({kind.name for kind in FILES}) == len(FILES)


@pytest.mark.parametrize("kind", FILES, ids=lambda kind: ascii(kind.name)[:40])
def test_each_kind_ends_as_it_should(judged: Judged, kind: Kind) -> None:
    manifest, report = judged
    path = "odd/" + os.fsencode(kind.name).decode("utf-8", "backslashreplace")
    rows = report.table.set_index("path")
    if path in rows.index:
        row = rows.loc[path]
        assert (row["reason"] or "fit") == kind.fate
        assert kind.words in row["detail"]
        assert row["label"] == "odd"
    else:
        counted = dict(zip(manifest.ignored["reason"], manifest.ignored["count"], strict=True))
        assert kind.fate == "nothing" or counted.get(kind.fate, 0) > 0
    told = {outcome.name for outcome in report.failed("warning") if path in outcome.failing}
    assert told - {"grey among colour, or the reverse"} == ({kind.warning} if kind.warning else set())


def test_what_is_fit_is_read_whole_by_whatever_reads_it_later(judged: Judged) -> None:
    manifest, report = judged
    fit = manifest.table[manifest.table["path"].isin(report.clusters)]
    for path, sha256, height, width in zip(
        fit["path"], fit["sha256"], fit["height_px"], fit["width_px"], strict=True
    ):
        assert read_rgb(manifest.folder() / path, sha256).shape == (height, width, 3)


def test_what_cannot_be_decoded_is_refused_by_whatever_reads_it_later(judged: Judged) -> None:
    manifest, report = judged
    for path in report.quarantine.loc[report.quarantine["reason"] == "cannot be decoded", "path"]:
        place = manifest.folder() / path
        if place.is_file():
            with pytest.raises(Exception, match=r"cannot|empty|floating|pixels"):
                read_rgb(place)


def test_the_report_shows_all_of_it(judged: Judged) -> None:
    manifest, report = judged
    page = validation_page(report)
    assert "\x1b" not in "".join(outcome.sentence for outcome in report.outcomes)
    assert "links out of the folder" in page
    assert "http" not in page
    assert manifest.ignored["count"].sum() == sum(
        kind.fate.endswith(("files", "folder", "circle")) for kind in FILES
    )
