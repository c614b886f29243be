"""The recipe's part of the config: strategy, loop, warm-up, fine-tuning."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from graft.section import NotNegative, PositiveFloat, PositiveInt, Section


def _zero_or_some(alpha: float) -> float:
    if 0 < alpha < 1e-3:
        raise ValueError(f"is {alpha:g}; give 0 to leave it out, or at least 0.001")
    return alpha


Rate = Annotated[float, Field(gt=0, le=1000)]
Count = Annotated[int, Field(ge=1, le=65_536)]
Alpha = Annotated[float, Field(ge=0, le=1000), AfterValidator(_zero_or_some)]
Epochs = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False, min_length=1)]


class OptimizerConfig(Section):
    """How weights are moved; norms and biases never decay.

    ``momentum`` is SGD's, with Nesterov's step, or the first beta of AdamW.

    All schedules rise along a line first. ``gradient_clip`` bounds the norm of the gradient of all weights
    together, which is gathered over ``accumulation_steps`` batches.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    weight_decay: NotNegative = 0.01
    momentum: Annotated[float, Field(gt=0, lt=1)] = 0.9
    schedule: Literal["cosine", "one_cycle", "constant"] = "cosine"
    gradient_clip: PositiveFloat = 1.0
    accumulation_steps: Count = 1


class AugmentationConfig(Section):
    """How training images are varied; ``mixup_alpha`` and ``cutmix_alpha`` of 0 leave these out.

    With strength ``none``, no image is cropped at random or flipped.
    """

    strength: Literal["none", "light", "strong"] = "light"
    horizontal_flip: bool = True
    mixup_alpha: Alpha = 0.0
    cutmix_alpha: Alpha = 0.0


class LossConfig(Section):
    """Cross-entropy, softened. ``focal_gamma`` of 0 is no focal loss.

    ``class_weights`` weighs each image by the inverse share of its class.
    """

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    focal_gamma: NotNegative = 0.0
    class_weights: bool = False


class ComputeConfig(Section):
    """What is computed where. ``auto`` takes CUDA or Apple's device where there is one, and the CPU where not.

    Precision, layout and threads that are ``auto`` are tried before a run, and the fastest is taken.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    channels_last: bool | Literal["auto"] = "auto"
    threads: Count | Literal["auto"] = "auto"
    compile: bool = False


class CacheConfig(Section):
    """What frozen layers give, and decoded images, made once and kept on disk; ``max_gb`` of 0 keeps nothing.

    Each image is augmented in ``views`` ways, of which every epoch takes another; where the head alone is trained,
    in ``head_views``: ``auto`` is one, and under strong augmentation as many as ``views``.
    """

    views: Count = 4
    head_views: Count | Literal["auto"] = "auto"
    precision: Literal["float16", "float32"] = "float16"
    max_gb: NotNegative = 10.0


class LoopConfig(Section):
    """What warm-up and fine-tuning share.

    ``select_by`` names the metric of the validation images by which epochs of fine-tuning are compared. Batch
    norms of ``frozen_stages`` keep their statistics, or ``all_frozen`` do, or all ``adapt``. ``balanced`` sampling
    draws every class equally often. ``ema_decay`` judges and keeps a moving average of the weights.
    """

    batch_size: Count = 32
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    batch_norm: Literal["frozen_stages", "all_frozen", "adapt"] = "frozen_stages"
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    select_by: Literal["macro_f1", "accuracy", "loss", "auroc"] = "macro_f1"
    optimizer: OptimizerConfig = OptimizerConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    loss: LossConfig = LossConfig()
    compute: ComputeConfig = ComputeConfig()
    cache: CacheConfig = CacheConfig()


class WarmUpConfig(Section):
    """Training the head on a frozen backbone."""

    epochs: PositiveInt = 4
    learning_rate: Rate = 2e-3


class LoraConfig(Section):
    """Low-rank adapters in place of the thawed weights, merged into them afterwards (Hu et al. 2021)."""

    rank: Annotated[int, Field(ge=1, le=1024)] = 8
    alpha: PositiveFloat = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class FineTuneConfig(Section):
    """Training the head and thawed stages; each stage toward the input learns ``stage_decay`` times slower.

    ``unfrozen_stages`` says how many thaw, and ``thaw_epochs`` when: the epoch for each, from the output toward
    the input. Training ends after ``patience`` epochs that are no better, by ``select_by``.
    """

    epochs: PositiveInt = 3
    learning_rate: Rate = 1e-4
    stage_decay: Annotated[float, Field(gt=0, le=1)] = 0.3
    patience: PositiveInt = 3
    unfrozen_stages: PositiveInt | None = None
    thaw_epochs: Epochs | None = None
    lora: LoraConfig | None = None


class TrainingConfig(LoopConfig):
    """The recipe.

    ``strategy`` says what thaws after warm-up: nothing (``head_only``), the ``last_stages``, all of it (``full``),
    one stage after another (``gradual``); ``auto`` chooses by the images of each class and by how well the frozen
    features tell them apart.
    """

    strategy: Literal["auto", "head_only", "last_stages", "full", "gradual"] = "auto"
    warm_up: WarmUpConfig = WarmUpConfig()
    fine_tune: FineTuneConfig = FineTuneConfig()

    @property
    def loop(self) -> LoopConfig:
        """This section's own part that warm-up and fine-tuning share."""
        return LoopConfig(**{name: getattr(self, name) for name in LoopConfig.model_fields})

    @model_validator(mode="after")
    def _thawing_fits_the_strategy(self) -> Self:
        tune = self.fine_tune
        if tune.lora is not None and self.strategy == "head_only":
            raise ValueError(
                "fine_tune.lora is given, and strategy head_only thaws nothing to adapt; leave it out"
            )
        if tune.unfrozen_stages is not None and self.strategy not in ("last_stages", "gradual"):
            raise ValueError(
                f"fine_tune.unfrozen_stages is {tune.unfrozen_stages}, which strategy {self.strategy} does not "
                f"use; leave it out, or take strategy last_stages or gradual"
            )
        if tune.thaw_epochs is None:
            return self
        if self.strategy != "gradual" or tune.unfrozen_stages is not None:
            raise ValueError(
                "fine_tune.thaw_epochs belongs to strategy gradual, and says how many stages thaw by itself; "
                "leave out fine_tune.unfrozen_stages, or thaw_epochs"
            )
        if list(tune.thaw_epochs) != sorted(tune.thaw_epochs) or tune.thaw_epochs[-1] >= tune.epochs:
            raise ValueError(
                f"fine_tune.thaw_epochs is {list(tune.thaw_epochs)} with {tune.epochs} epochs; give epochs from 0 "
                f"to {tune.epochs - 1} that never fall, from the last stage toward the input"
            )
        return self
