"""Config sections for data, model, export and promotion, and the parameters of both pipelines.

Every default lives here or in ``graft.config.training``. A function takes only the section that it needs.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from graft.config.image_sources import MAX_FILE_BYTES, MAX_PIXELS, Format
from graft.config.strict_model import (
    Fraction,
    GreyLevel,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    StrictModel,
    UserPath,
)
from graft.config.training import TrainingConfig


class LimitsConfig(StrictModel):
    """Limits for reading one image: file size in bytes, decoded pixels, seconds.

    ``max_silence_s`` is how long a remote server may send nothing, in seconds.
    """

    max_file_bytes: PositiveInt = MAX_FILE_BYTES
    max_pixels: Annotated[int, Field(ge=1, le=MAX_PIXELS)] = MAX_PIXELS
    max_seconds: Annotated[float, Field(gt=0, le=86_400)] = 20.0
    max_silence_s: Annotated[float, Field(gt=0, le=3_600)] = 30.0


class ValidationConfig(StrictModel):
    """Thresholds of the data validation; fractions are of all images.

    Brightness is the mean grey level and contrast its standard deviation, both in 0..255; sharpness is the variance
    of the Laplacian at 64 px. ``max_size_factor`` is the largest allowed ratio between an image's area and the
    median area, in either direction. Images of which at most ``near_duplicate_bits`` of the 64 bits of their
    perceptual hashes differ are compared by their pixels, which decide whether they are near duplicates.
    ``max_grey_gap`` is the largest allowed difference between two classes in their fraction of grey images.
    """

    min_images: PositiveInt = 20
    min_images_per_class: PositiveInt = 10
    max_imbalance: Annotated[float, Field(ge=1)] = 20.0
    min_decodable_fraction: Fraction = 0.8
    formats: Annotated[tuple[Format, ...], Field(strict=False, min_length=1)] = get_args(Format)
    min_side_px: PositiveInt = 32
    max_aspect_ratio: Annotated[float, Field(ge=1)] = 8.0
    min_file_bytes: PositiveInt = 100
    max_size_factor: Annotated[float, Field(ge=1)] = 30.0
    min_brightness: GreyLevel = 5.0
    max_brightness: GreyLevel = 250.0
    min_contrast: GreyLevel = 1.0
    min_sharpness: NonNegativeFloat = 30.0
    max_grey_fraction: Fraction = 0.1
    max_grey_gap: Fraction = 0.3
    max_duplicate_fraction: Fraction = 0.0
    max_near_duplicate_fraction: Fraction = 0.0
    near_duplicate_bits: Annotated[int, Field(ge=0, le=12)] = 8
    on_conflicting_labels: Literal["quarantine", "warn"] = "quarantine"

    @model_validator(mode="after")
    def _brightness_is_a_range(self) -> Self:
        if self.min_brightness >= self.max_brightness:
            raise ValueError(
                f"min_brightness is {self.min_brightness:g} and max_brightness is {self.max_brightness:g}; "
                f"min_brightness must be below max_brightness"
            )
        return self


class BadImagesConfig(StrictModel):
    """How bad images are handled: quarantined, up to a fraction of all images, or an error."""

    on_bad_images: Literal["quarantine", "fail"] = "quarantine"
    max_quarantined_fraction: Fraction = 0.1


class SplitConfig(StrictModel):
    """The images that are held out from training.

    ``holdout_fraction`` is used only if the data has neither ``val/`` nor ``test/``. ``on_leak`` decides what happens
    to training images with a near duplicate in the holdout: ``exclude`` trains without them, ``keep`` with them, and
    ``ask`` excludes up to a tenth of the training images and stops if there are more.
    """

    holdout_fraction: Annotated[float, Field(gt=0, le=0.5)] = 0.2
    on_leak: Literal["ask", "exclude", "keep"] = "ask"


class DataConfig(BadImagesConfig):
    """The images, and how they are checked and split.

    ``root`` is the local path or URL, such as ``s3://bucket/photos``, of a folder or of a CSV or Parquet table. Links
    out of that folder are skipped, unless ``follow_links`` is set.
    """

    root: UserPath
    follow_links: bool = False
    limits: LimitsConfig = LimitsConfig()
    validation: ValidationConfig = ValidationConfig()
    split: SplitConfig = SplitConfig()

    @property
    def bad_images(self) -> BadImagesConfig:
        """The ``BadImagesConfig`` fields alone: a step that takes them does not depend on ``root``."""
        return BadImagesConfig(on_bad_images=self.on_bad_images, max_quarantined_fraction=self.max_quarantined_fraction)


class ModelConfig(StrictModel):
    """The backbone.

    ``weights`` is the name of torchvision weights (``DEFAULT``, ``IMAGENET1K_V1`` …), the path of a
    ``.safetensors`` or ``.pth`` file, ``letters`` (bundled, ``mobilenet_v3_small`` only), or ``none``.
    ``resize_px`` and ``crop_px`` default to those of the weights.
    """

    architecture: Annotated[str, Field(min_length=1)] = "mobilenet_v2"
    weights: UserPath = "DEFAULT"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    resize_px: Annotated[int, Field(ge=16, le=2048)] | None = None
    crop_px: Annotated[int, Field(ge=16, le=2048)] | None = None

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.resize_px is not None and self.crop_px is not None and self.crop_px > self.resize_px:
            raise ValueError(
                f"crop_px is {self.crop_px} and resize_px is {self.resize_px}; crop_px must be at most resize_px"
            )
        return self


class CrossValidationConfig(StrictModel):
    """Cross-validation on the training images."""

    folds: Annotated[int, Field(ge=2, le=20)] = 5


class ExportConfig(StrictModel):
    """The ONNX export. ``max_abs_error`` is the largest allowed difference between probabilities of ONNX and torch."""

    opset: Annotated[int, Field(ge=18, le=23)] = 20
    max_abs_error: PositiveFloat = 5e-3
    parity_images: PositiveInt = 32


class RegistryConfig(StrictModel):
    """The name of the registered model in MLflow and ZenML."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)] = "graft-classifier"


class GateConfig(StrictModel):
    """Conditions that a challenger must meet to become champion.

    ``significance`` is the level of a one-sided exact McNemar test of whether the challenger is worse.
    """

    min_accuracy: Annotated[float, Field(ge=0, le=1)] = 0.8
    min_images: PositiveInt = 20
    significance: Annotated[float, Field(gt=0, lt=1)] = 0.05


class TrainingParameters(StrictModel):
    """The parameters of ``training_pipeline``."""

    data: DataConfig
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    cross_validation: CrossValidationConfig = CrossValidationConfig()
    export: ExportConfig = ExportConfig()
    registry: RegistryConfig = RegistryConfig()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class PromotionParameters(StrictModel):
    """The parameters of ``promotion_pipeline``."""

    data: DataConfig
    registry: RegistryConfig
    gate: GateConfig
