"""The config: what is asked of the data, the model and the pipeline; ``training_config`` holds the recipe.

Every default lives in these two modules and nowhere else. A function gets the narrow section that it needs.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from graft.data.images import MAX_PIXELS, Format
from graft.section import Fraction, Grey, NotNegative, PositiveFloat, PositiveInt, Section
from graft.training_config import TrainingConfig


class LimitsConfig(Section):
    """What reading one image may cost: compressed bytes, decoded pixels, seconds."""

    max_file_bytes: PositiveInt = 200_000_000
    max_pixels: Annotated[int, Field(ge=1, le=MAX_PIXELS)] = MAX_PIXELS
    max_seconds: Annotated[float, Field(gt=0, le=86_400)] = 20.0


class ValidationConfig(Section):
    """What the images must be.

    Sides in pixels, fractions of all images. ``brightness`` is the mean grey, ``contrast`` its standard
    deviation, both in 0..255; ``sharpness`` the variance of the Laplacian at 64 px. ``max_size_factor`` bounds
    how many times larger or smaller than the median image's area an image may be. Pictures are near duplicates
    where at most ``near_duplicate_bits`` of the 64 bits of their perceptual hashes differ, as they are or
    mirrored. ``max_grey_gap`` bounds how much more often one class is grey than another.
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
    min_brightness: Grey = 5.0
    max_brightness: Grey = 250.0
    min_contrast: Grey = 1.0
    min_sharpness: NotNegative = 30.0
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


class BadImagesConfig(Section):
    """What becomes of bad images: left out, up to a fraction of all, or the end of the run."""

    on_bad_images: Literal["quarantine", "fail"] = "quarantine"
    max_quarantined_fraction: Fraction = 0.1


class SplitConfig(Section):
    """How images are set aside. ``holdout_fraction`` counts only where neither ``val/`` nor ``test/`` is given.

    ``on_leak`` says what becomes of training images whose near duplicates are held out.
    """

    holdout_fraction: Annotated[float, Field(gt=0, le=0.5)] = 0.2
    validation_fraction: Annotated[float, Field(gt=0, le=0.5)] = 0.15
    on_leak: Literal["exclude", "keep"] = "exclude"


class DataConfig(BadImagesConfig):
    """Where the images are, and what is asked of them.

    ``root`` is a folder or a CSV or Parquet table, on this machine or at an address such as ``s3://bucket/photos``.
    """

    root: Annotated[str, Field(min_length=1)]
    limits: LimitsConfig = LimitsConfig()
    validation: ValidationConfig = ValidationConfig()
    split: SplitConfig = SplitConfig()

    @property
    def bad_images(self) -> BadImagesConfig:
        """This section's own part about bad images, without the place of the folder."""
        return BadImagesConfig(
            on_bad_images=self.on_bad_images, max_quarantined_fraction=self.max_quarantined_fraction
        )


class ModelConfig(Section):
    """The backbone.

    ``weights`` is the name of torchvision weights (``DEFAULT``, ``IMAGENET1K_V1`` …), the path of a
    ``.safetensors`` or ``.pth`` file, ``letters`` (bundled, ``mobilenet_v3_small`` only), or ``none``.
    ``resize_px`` and ``crop_px`` are taken from the weights where they are not given.
    """

    architecture: Annotated[str, Field(min_length=1)] = "mobilenet_v2"
    weights: Annotated[str, Field(min_length=1)] = "DEFAULT"
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


class CrossValidationConfig(Section):
    """How many parts the training images are cut into."""

    folds: Annotated[int, Field(ge=2, le=20)] = 5


class ExportConfig(Section):
    """The ONNX file. ``max_abs_error`` bounds the difference of any probability from torch's."""

    opset: Annotated[int, Field(ge=18, le=23)] = 20
    max_abs_error: PositiveFloat = 5e-3
    parity_images: PositiveInt = 32


class RegistryConfig(Section):
    """The name under which models are registered, in MLflow and in ZenML."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)] = "graft-classifier"


class GateConfig(Section):
    """What a challenger must show before it becomes champion.

    ``significance`` is the level of a one-sided exact McNemar test: below it, worse counts as clearly worse.
    """

    min_accuracy: Annotated[float, Field(ge=0, le=1)] = 0.8
    min_images: PositiveInt = 20
    significance: Annotated[float, Field(gt=0, lt=1)] = 0.05


class TrainingParameters(Section):
    """All that ``training_pipeline`` takes."""

    data: DataConfig
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    cross_validation: CrossValidationConfig = CrossValidationConfig()
    export: ExportConfig = ExportConfig()
    registry: RegistryConfig = RegistryConfig()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class PromotionParameters(Section):
    """All that ``promotion_pipeline`` takes."""

    data: DataConfig
    registry: RegistryConfig
    gate: GateConfig
