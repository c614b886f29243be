"""The checks of a dataset, as suites of Great Expectations.

By its severity, a failed check stops the pipeline (``critical``), leaves out the failing images (``quarantine``), or
is reported (``warning``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from great_expectations import expectations as gxe

from graft.config.parameters import ValidationConfig
from graft.data.storage import MISSING

Severity = Literal["critical", "quarantine", "warning"]


@dataclass(frozen=True)
class Check:
    """An expectation with its texts.

    ``name`` is the short name of a failure, ``hint`` says what to do, ``config_key`` names the key that relaxes it.
    """

    name: str
    requirement: str
    severity: Severity
    config_key: str
    hint: str
    expectation: Any


class ExpectImagesToHaveOneLabel(gxe.ExpectColumnValuesToBeBetween):
    """Identical files have one label."""

    column: str = "label_count"
    max_value: float = 1
    description: str = "The same image has one label only."


class ExpectNearDuplicatesToHaveOneLabel(gxe.ExpectColumnValuesToBeBetween):
    """Near duplicates have one label."""

    column: str = "cluster_label_count"
    max_value: float = 1
    description: str = "Near duplicates have one label only."


class ExpectNearDuplicatesToBeInOneSplit(gxe.ExpectColumnValuesToBeBetween):
    """Near duplicates are in one given split."""

    column: str = "cluster_split_count"
    max_value: float = 1
    description: str = "An image and its near duplicates are in one given split only."


def file_checks(config: ValidationConfig) -> list[Check]:
    """Checks of each file."""
    formats = ", ".join(config.formats)
    return [
        Check("missing", "each path must be that of a file", "quarantine", "", "correct the paths, or remove them",
              gxe.ExpectColumnValuesToNotMatchRegex(column="error", regex=f"^{MISSING}")),
        Check("cannot be decoded", "each image must decode completely", "quarantine", "",
              "replace or remove them",
              gxe.ExpectColumnValuesToBeInSet(column="decode_error", value_set=[""])),
        Check("too many damaged files",
              f"at least {100 * config.min_decodable_fraction:g} % of the images must decode",
              "critical", "min_decodable_fraction", "check their source",
              gxe.ExpectColumnValuesToBeInSet(
                  column="decode_error", value_set=[""], mostly=config.min_decodable_fraction)),
        Check("not of an accepted format", f"each image must be one of {formats}", "quarantine", "formats",
              "convert or remove them",
              gxe.ExpectColumnValuesToBeInSet(column="format", value_set=["", *config.formats])),
        Check("too few bytes", f"each file must have at least {config.min_file_bytes} bytes", "quarantine",
              "min_file_bytes", "replace or remove them",
              gxe.ExpectColumnValuesToBeBetween(column="read_bytes", min_value=config.min_file_bytes)),
    ]  # fmt: skip


def image_checks(config: ValidationConfig) -> list[Check]:
    """Checks of each decoded image."""
    return [
        Check("too small", f"each side must be at least {config.min_side_px} px", "quarantine", "min_side_px",
              "replace them with larger ones",
              gxe.ExpectColumnValuesToBeBetween(column="short_side_px", min_value=config.min_side_px)),
        Check("extreme aspect ratio", f"no side may be over {config.max_aspect_ratio:g} times the other",
              "quarantine", "max_aspect_ratio", "crop or remove them",
              gxe.ExpectColumnValuesToBeBetween(column="aspect_ratio", max_value=config.max_aspect_ratio)),
        Check("unscaled 16-bit values", "the values of each 16-bit image must use their range", "quarantine",
              "min_contrast",
              "multiply them so that they reach 65535, 10-bit data by 64 and 12-bit data by 16, and save them again",
              gxe.ExpectColumnValuesToBeBetween(column="blank_range_percent", min_value=100)),
        Check("blank", f"each image must have a contrast of at least {config.min_contrast:g}", "quarantine",
              "min_contrast", "replace or remove them",
              gxe.ExpectColumnValuesToBeBetween(column="scaled_contrast", min_value=config.min_contrast)),
    ]  # fmt: skip


def label_checks(config: ValidationConfig) -> list[Check]:
    """Checks of the labels."""
    severity: Severity = "quarantine" if config.on_conflicting_labels == "quarantine" else "warning"
    return [
        Check("conflicting labels", "the same image must not have two labels", severity, "on_conflicting_labels",
              "remove each from the wrong classes", ExpectImagesToHaveOneLabel()),
    ]  # fmt: skip


def collection_checks(config: ValidationConfig) -> list[Check]:
    """Checks of all images that are not quarantined."""
    return [
        Check("too few images", f"there must be at least {config.min_images} images", "critical", "min_images",
              "add images", gxe.ExpectTableRowCountToBeBetween(min_value=config.min_images)),
        Check("no path", "every image must have a path", "critical", "", "fix the table",
              gxe.ExpectColumnValuesToNotBeNull(column="path")),
        Check("listed twice", "no path may be listed twice", "critical", "", "remove the second row",
              gxe.ExpectColumnValuesToBeUnique(column="path")),
        Check("no label", "every image must have a label", "critical", "", "fix the table",
              gxe.ExpectColumnValueLengthsToBeBetween(column="label", min_value=1)),
        Check("only one class", "there must be at least 2 classes", "critical", "", "add a folder of another class",
              gxe.ExpectColumnUniqueValueCountToBeBetween(column="label", min_value=2)),
        Check("very dark", f"the brightness of each should be at least {config.min_brightness:g}", "warning",
              "min_brightness", "check whether their content is visible",
              gxe.ExpectColumnValuesToBeBetween(column="brightness", min_value=config.min_brightness)),
        Check("very bright", f"the brightness of each should be at most {config.max_brightness:g}", "warning",
              "max_brightness", "check whether their content is visible",
              gxe.ExpectColumnValuesToBeBetween(column="brightness", max_value=config.max_brightness)),
        Check("blurred", f"the sharpness of each should be at least {config.min_sharpness:g}", "warning",
              "min_sharpness", "check whether their content is visible",
              gxe.ExpectColumnValuesToBeBetween(column="sharpness", min_value=config.min_sharpness)),
        Check("unusual size",
              f"no area should be over {config.max_size_factor:g} times larger or smaller than the median",
              "warning", "max_size_factor", "check for thumbnails and scans among them",
              gxe.ExpectColumnValuesToBeBetween(column="size_factor", max_value=config.max_size_factor)),
        Check("wrong file extension", "each file's extension should match its format", "warning", "",
              "rename them", gxe.ExpectColumnPairValuesToBeEqual(column_A="format", column_B="extension_format")),
        Check("mixed grey and colour",
              f"{_at_most(config.max_grey_fraction)} should be grey among colour or colour among grey",
              "warning", "max_grey_fraction", "use either colour or grey images throughout",
              gxe.ExpectColumnValuesToBeInSet(
                  column="colour_outlier", value_set=[0], mostly=1 - config.max_grey_fraction)),
        Check("exact duplicates",
              f"{_at_most(config.max_duplicate_fraction)} should be an exact copy of another", "warning",
              "max_duplicate_fraction", "keep one of each",
              gxe.ExpectColumnValuesToBeUnique(column="sha256", mostly=1 - config.max_duplicate_fraction)),
        Check("near duplicates",
              f"{_at_most(config.max_near_duplicate_fraction)} should be a near duplicate of another", "warning",
              "max_near_duplicate_fraction", "keep one of each",
              gxe.ExpectColumnValuesToBeBetween(
                  column="cluster_image_count", max_value=1, mostly=1 - config.max_near_duplicate_fraction)),
        Check("near duplicates with another label", "near duplicates should have one label", "warning",
              "near_duplicate_bits", "check which label is correct", ExpectNearDuplicatesToHaveOneLabel()),
        Check("in two given splits", "near duplicates should be in one given split", "warning",
              "near_duplicate_bits", "data.split.on_leak decides about those in training",
              ExpectNearDuplicatesToBeInOneSplit()),
    ]  # fmt: skip


def class_checks(config: ValidationConfig, folds: int, classes: pd.DataFrame) -> list[Check]:
    """Checks of the classes; ``classes`` has one row per class and the column ``images``."""
    min_images = classes["images"].max() / config.max_imbalance if len(classes) else 0
    return [
        Check("too few images of a class", f"each class must have at least {config.min_images_per_class} images",
              "critical", "min_images_per_class", "add images of them, or remove their folders",
              gxe.ExpectColumnValuesToBeBetween(column="images", min_value=config.min_images_per_class)),
        Check("too few images for the folds",
              f"each class must have at least {folds} distinct training images, one for each fold",
              "critical", "cross_validation.folds", "add images of them",
              gxe.ExpectColumnValuesToBeBetween(column="distinct_training_images", min_value=folds)),
        Check("imbalance", f"no class should be over {config.max_imbalance:g} times larger than another",
              "warning", "max_imbalance", "add images of the small ones",
              gxe.ExpectColumnValuesToBeBetween(column="images", min_value=float(min_images))),
        Check("similar class names", "no two class names should differ only in case, spaces or the encoding of accents",
              "warning", "", "merge them if they are the same class",
              gxe.ExpectColumnValuesToBeUnique(column="normalized_name")),
        Check("grey correlates with class",
              f"no class should be grey more often than another by over {100 * config.max_grey_gap:g} %",
              "warning", "max_grey_gap", "a model may learn the colour instead of the object",
              gxe.ExpectColumnValuesToBeBetween(column="grey_gap", max_value=config.max_grey_gap)),
    ]  # fmt: skip


def _at_most(fraction: float) -> str:
    return f"at most {100 * fraction:g} % of the images" if fraction else "no image"
