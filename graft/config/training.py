"""The ``training`` section of the config: strategy, training loop, warm-up, fine-tuning, compute, cache."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from graft.config.strict_model import NonNegativeFloat, PositiveFloat, PositiveInt, StrictModel


def _zero_or_large_enough(alpha: float) -> float:
    if 0 < alpha < 1e-3:
        raise ValueError(f"{alpha:g} is too small; give 0 to disable it, or at least 0.001")
    return alpha


LearningRate = Annotated[float, Field(gt=0, le=1000)]
Count = Annotated[int, Field(ge=1, le=65_536)]
Alpha = Annotated[float, Field(ge=0, le=1000), AfterValidator(_zero_or_large_enough)]
Epochs = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False, min_length=1)]


class OptimizerConfig(StrictModel):
    """Optimizer and learning-rate schedule; weight decay does not apply to norms and biases.

    ``momentum`` is that of SGD with Nesterov momentum, or beta 1 of AdamW. Every schedule begins with a linear
    warm-up. ``gradient_clip`` is the maximum norm of the gradient of all weights together, accumulated over
    ``accumulation_steps`` batches.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    weight_decay: NonNegativeFloat = 0.01
    momentum: Annotated[float, Field(gt=0, lt=1)] = 0.9
    schedule: Literal["cosine", "one_cycle", "constant"] = "cosine"
    gradient_clip: PositiveFloat = 1.0
    accumulation_steps: Count = 1


class AugmentationConfig(StrictModel):
    """Augmentation of training images; ``mixup_alpha`` and ``cutmix_alpha`` of 0 disable mixup and CutMix.

    With strength ``none``, there are neither random crops nor flips.
    """

    strength: Literal["none", "light", "strong"] = "light"
    horizontal_flip: bool = True
    mixup_alpha: Alpha = 0.0
    cutmix_alpha: Alpha = 0.0


class LossConfig(StrictModel):
    """Cross-entropy with label smoothing; ``focal_gamma`` of 0 disables the focal loss.

    ``class_weights`` weights each image by the inverse frequency of its class.
    """

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    focal_gamma: NonNegativeFloat = 0.0
    class_weights: bool = False


class ComputeConfig(StrictModel):
    """Device, precision, memory format and threads.

    Device ``auto`` is CUDA or MPS if available, else the CPU. ``auto`` precision, memory format and threads are
    benchmarked before a run, and the fastest are used.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    channels_last: bool | Literal["auto"] = "auto"
    threads: Count | Literal["auto"] = "auto"
    compile: bool = False


class CacheConfig(StrictModel):
    """The disk cache of frozen features and decoded images; ``max_gb`` of 0 disables it.

    Each training image is augmented in ``views`` ways, and the epochs take these in turn. While only the head is
    trained, ``head_views`` is used instead: ``auto`` is the centre crop of evaluation, or ``views`` with strong
    augmentation.
    """

    views: Count = 8
    head_views: Count | Literal["auto"] = "auto"
    precision: Literal["float16", "float32"] = "float16"
    max_gb: NonNegativeFloat = 10.0


class TrainLoopConfig(StrictModel):
    """Settings that warm-up and fine-tuning share.

    ``batch_norm`` decides which batch norms keep their running statistics: those of ``frozen_stages``, all of them
    (``all_frozen``), or none (``adapt``). ``balanced`` sampling draws every class equally often. With ``ema_decay``, an
    exponential moving average of the weights is evaluated and becomes the result.
    """

    batch_size: Count = 32
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    batch_norm: Literal["frozen_stages", "all_frozen", "adapt"] = "all_frozen"
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    optimizer: OptimizerConfig = OptimizerConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    loss: LossConfig = LossConfig()
    compute: ComputeConfig = ComputeConfig()
    cache: CacheConfig = CacheConfig()


class WarmUpConfig(StrictModel):
    """Training the head on a frozen backbone."""

    epochs: PositiveInt = 12
    learning_rate: LearningRate = 1e-3


class LoraConfig(StrictModel):
    """Low-rank adapters in place of the unfrozen weights, merged into them afterwards (Hu et al. 2021)."""

    rank: Annotated[int, Field(ge=1, le=1024)] = 8
    alpha: PositiveFloat = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class FineTuneConfig(StrictModel):
    """Training the head and the unfrozen stages.

    The learning rate of each stage toward the input is ``layer_decay`` times that of the next. ``unfrozen_stages`` is
    the number of stages that are unfrozen; ``unfreeze_epochs`` holds the epoch for each, from the output toward the
    input, counted from 0.
    """

    epochs: PositiveInt = 20
    learning_rate: LearningRate = 5e-4
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.85
    unfrozen_stages: PositiveInt | None = None
    unfreeze_epochs: Epochs | None = None
    lora: LoraConfig | None = None


class TrainingConfig(TrainLoopConfig):
    """The ``training`` section.

    ``strategy`` decides which stages are unfrozen after warm-up: none (``head_only``), the ``last_stages``, all
    (``full``), or one after another (``gradual``); ``auto`` chooses by the number of images of each class and by
    how well frozen features classify them.
    """

    strategy: Literal["auto", "head_only", "last_stages", "full", "gradual"] = "auto"
    warm_up: WarmUpConfig = WarmUpConfig()
    fine_tune: FineTuneConfig = FineTuneConfig()

    @property
    def train_config(self) -> TrainLoopConfig:
        """The ``TrainLoopConfig`` fields alone: a step that takes them does not depend on the others."""
        return TrainLoopConfig(**{name: getattr(self, name) for name in TrainLoopConfig.model_fields})

    @model_validator(mode="after")
    def _unfreezing_fits_strategy(self) -> Self:
        fine_tune = self.fine_tune
        if fine_tune.lora is not None and self.strategy == "head_only":
            raise ValueError("fine_tune.lora is set, but strategy head_only unfreezes no stages; remove it")
        if fine_tune.unfrozen_stages is not None and self.strategy not in ("last_stages", "gradual"):
            raise ValueError(
                f"fine_tune.unfrozen_stages is {fine_tune.unfrozen_stages}, which strategy {self.strategy} does not "
                f"use; remove it, or set strategy to last_stages or gradual"
            )
        if fine_tune.unfreeze_epochs is None:
            return self
        if self.strategy != "gradual" or fine_tune.unfrozen_stages is not None:
            raise ValueError(
                "fine_tune.unfreeze_epochs requires strategy gradual, and its length is the number of stages that are "
                "unfrozen; set strategy to gradual and remove fine_tune.unfrozen_stages, or remove unfreeze_epochs"
            )
        epochs = list(fine_tune.unfreeze_epochs)
        if epochs != sorted(epochs) or epochs[-1] >= fine_tune.epochs:
            raise ValueError(
                f"fine_tune.unfreeze_epochs is {epochs} with {fine_tune.epochs} epochs; give epochs from 0 to "
                f"{fine_tune.epochs - 1} in non-decreasing order, from the last stage toward the input"
            )
        return self
