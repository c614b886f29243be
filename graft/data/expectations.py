"""What images must be to be trained on, as suites of Great Expectations, each judged on what the last one left.

A check that fails stops the pipeline where it is ``critical``, leaves the failing images out where it is
``quarantine``, and is told where it is ``warning``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from great_expectations import expectations as gxe

from graft.config import ValidationConfig

Severity = Literal["critical", "quarantine", "warning"]


@dataclass(frozen=True)
class Check:
    """One expectation in words: a short name of what fails it, what it asks, what to do, which key relaxes it."""

    name: str
    asks: str
    severity: Severity
    key: str
    advice: str
    expectation: Any


class ExpectPicturesToHaveOneLabel(gxe.ExpectColumnValuesToBeBetween):
    """The same picture, byte by byte, is found under one label only."""

    column: str = "labels_of_picture"
    max_value: float = 1
    description: str = "The same picture is found under one label only."


class ExpectNearDuplicatesToHaveOneLabel(gxe.ExpectColumnValuesToBeBetween):
    """Pictures that nearly agree are found under one label only."""

    column: str = "labels_of_cluster"
    max_value: float = 1
    description: str = "Near duplicates are found under one label only."


class ExpectPicturesToBeInOneSplit(gxe.ExpectColumnValuesToBeBetween):
    """Pictures that nearly agree are found in one given split only."""

    column: str = "splits_of_cluster"
    max_value: float = 1
    description: str = "A picture and its near duplicates are found in one given split only."


def file_checks(config: ValidationConfig) -> list[Check]:
    """What each file must be."""
    formats = ", ".join(config.formats)
    return [
        Check("cannot be decoded", "each image must decode whole", "quarantine", "",
              "replace or remove them",
              gxe.ExpectColumnValuesToBeInSet(column="error", value_set=[""])),
        Check("too many damaged files",
              f"at least {100 * config.min_decodable_fraction:g} % of the images must decode",
              "critical", "min_decodable_fraction", "look where they come from",
              gxe.ExpectColumnValuesToBeInSet(
                  column="error", value_set=[""], mostly=config.min_decodable_fraction)),
        Check("not of an accepted format", f"each image must be one of {formats}", "quarantine", "formats",
              "convert or remove them",
              gxe.ExpectColumnValuesToBeInSet(column="format", value_set=["", *config.formats])),
        Check("hardly any bytes", f"each file must have at least {config.min_file_bytes} bytes", "quarantine",
              "min_file_bytes", "replace or remove them",
              gxe.ExpectColumnValuesToBeBetween(column="size_bytes", min_value=config.min_file_bytes)),
    ]  # fmt: skip


def picture_checks(config: ValidationConfig) -> list[Check]:
    """What each picture must be, where it decodes."""
    return [
        Check("too small", f"each side must be at least {config.min_side_px} px", "quarantine", "min_side_px",
              "replace them with larger ones",
              gxe.ExpectColumnValuesToBeBetween(column="short_side_px", min_value=config.min_side_px)),
        Check("too long and thin", f"no side may be over {config.max_aspect_ratio:g} times the other",
              "quarantine", "max_aspect_ratio", "crop or remove them",
              gxe.ExpectColumnValuesToBeBetween(column="aspect_ratio", max_value=config.max_aspect_ratio)),
        Check("blank", f"each picture must have a contrast of at least {config.min_contrast:g}", "quarantine",
              "min_contrast", "replace or remove them",
              gxe.ExpectColumnValuesToBeBetween(column="contrast", min_value=config.min_contrast)),
    ]  # fmt: skip


def label_checks(config: ValidationConfig) -> list[Check]:
    """What each label must be."""
    severity: Severity = "quarantine" if config.on_conflicting_labels == "quarantine" else "warning"
    return [
        Check("conflicting labels", "the same picture must not have two labels", severity, "on_conflicting_labels",
              "remove each from the classes that it is not of", ExpectPicturesToHaveOneLabel()),
    ]  # fmt: skip


def collection_checks(config: ValidationConfig) -> list[Check]:
    """What the images that are left must be, each beside the others."""
    return [
        Check("too few images", f"there must be at least {config.min_images} images", "critical", "min_images",
              "add images", gxe.ExpectTableRowCountToBeBetween(min_value=config.min_images)),
        Check("no path", "every image must have a path", "critical", "", "mend the table",
              gxe.ExpectColumnValuesToNotBeNull(column="path")),
        Check("listed twice", "no path may be listed twice", "critical", "", "remove the second row",
              gxe.ExpectColumnValuesToBeUnique(column="path")),
        Check("no label", "every image must have a label", "critical", "", "mend the table",
              gxe.ExpectColumnValueLengthsToBeBetween(column="label", min_value=1)),
        Check("one class", "there must be at least 2 classes", "critical", "", "add a folder of another class",
              gxe.ExpectColumnUniqueValueCountToBeBetween(column="label", min_value=2)),
        Check("very dark", f"the brightness of each should be at least {config.min_brightness:g}", "warning",
              "min_brightness", "look whether anything can be seen on them",
              gxe.ExpectColumnValuesToBeBetween(column="brightness", min_value=config.min_brightness)),
        Check("very bright", f"the brightness of each should be at most {config.max_brightness:g}", "warning",
              "max_brightness", "look whether anything can be seen on them",
              gxe.ExpectColumnValuesToBeBetween(column="brightness", max_value=config.max_brightness)),
        Check("blurred", f"the sharpness of each should be at least {config.min_sharpness:g}", "warning",
              "min_sharpness", "look whether anything can be seen on them",
              gxe.ExpectColumnValuesToBeBetween(column="sharpness", min_value=config.min_sharpness)),
        Check("of an unusual size",
              f"no area should be over {config.max_size_factor:g} times larger or smaller than the median",
              "warning", "max_size_factor", "look for thumbnails and scans among them",
              gxe.ExpectColumnValuesToBeBetween(column="size_factor", max_value=config.max_size_factor)),
        Check("named as another format", "each file's extension should say its format", "warning", "",
              "rename them", gxe.ExpectColumnPairValuesToBeEqual(column_A="format", column_B="named_format")),
        Check("grey among colour, or the reverse",
              f"{_at_most(config.max_grey_fraction)} should be grey among colour or colour among grey",
              "warning", "max_grey_fraction", "use one kind throughout",
              gxe.ExpectColumnValuesToBeInSet(
                  column="odd_colour", value_set=[0], mostly=1 - config.max_grey_fraction)),
        Check("exact duplicates",
              f"{_at_most(config.max_duplicate_fraction)} should be an exact copy of another", "warning",
              "max_duplicate_fraction", "keep one of each",
              gxe.ExpectColumnValuesToBeUnique(column="sha256", mostly=1 - config.max_duplicate_fraction)),
        Check("near duplicates",
              f"{_at_most(config.max_near_duplicate_fraction)} should be a near duplicate of another", "warning",
              "max_near_duplicate_fraction", "keep one of each",
              gxe.ExpectColumnValuesToBeBetween(
                  column="pictures_of_cluster", max_value=1, mostly=1 - config.max_near_duplicate_fraction)),
        Check("near duplicates with another label", "near duplicates should have one label", "warning",
              "near_duplicate_bits", "look which label is right", ExpectNearDuplicatesToHaveOneLabel()),
        Check("in two given splits", "near duplicates should be in one given split", "warning",
              "near_duplicate_bits", "those in training are left out unless data.split.on_leak is keep",
              ExpectPicturesToBeInOneSplit()),
    ]  # fmt: skip


def class_checks(config: ValidationConfig, folds: int, classes: pd.DataFrame) -> list[Check]:
    """What each class must be; ``classes`` has the column ``images``."""
    least = classes["images"].max() / config.max_imbalance if len(classes) else 0
    return [
        Check("too few of a class", f"each class must have at least {config.min_images_per_class} images",
              "critical", "min_images_per_class", "add images of them, or remove their folders",
              gxe.ExpectColumnValuesToBeBetween(column="images", min_value=config.min_images_per_class)),
        Check("too few for the folds",
              f"each class must have at least {folds} distinct pictures to train on, one for each fold",
              "critical", "cross_validation.folds", "add images of them",
              gxe.ExpectColumnValuesToBeBetween(column="distinct_to_train", min_value=folds)),
        Check("imbalance", f"no class should be over {config.max_imbalance:g} times larger than another",
              "warning", "max_imbalance", "add images of the small ones",
              gxe.ExpectColumnValuesToBeBetween(column="images", min_value=float(least))),
        Check("alike names", "no two classes should differ in case, spaces or accents' encoding alone", "warning",
              "", "make them one if they are one", gxe.ExpectColumnValuesToBeUnique(column="plain_name")),
        Check("grey tells the class",
              f"no class should be grey more often than another by over {100 * config.max_grey_gap:g} %",
              "warning", "max_grey_gap", "a model may learn the colour instead of the thing",
              gxe.ExpectColumnValuesToBeBetween(column="grey_above_least", max_value=config.max_grey_gap)),
    ]  # fmt: skip


def _at_most(fraction: float) -> str:
    return f"at most {100 * fraction:g} % of the images" if fraction else "no image"
