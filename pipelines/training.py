"""From a folder of labelled photographs to a registered ONNX model.

zenml pipeline run pipelines.training.training_pipeline -c configs/demo.yaml
"""

from graft.config import (
    CrossValidationConfig,
    DataConfig,
    ExportConfig,
    ModelConfig,
    RegistryConfig,
    TrainingParameters,
)
from graft.networks.weights import pin
from graft.runtime.strict import strict_pipeline
from graft.training_config import TrainingConfig
from steps.evaluate_holdout import evaluate_holdout
from steps.export_onnx import export_onnx
from steps.fine_tune import fine_tune
from steps.ingest_images import ingest_images
from steps.plan_training import plan_training
from steps.register_model import register_model
from steps.report_run import report_run
from steps.split_data import split_data
from steps.summarize_folds import summarize_folds
from steps.train_fold import train_fold
from steps.validate_data import validate_data
from steps.validate_onnx import validate_onnx
from steps.warm_up_head import warm_up_head


@strict_pipeline(TrainingParameters)
def training_pipeline(
    data: DataConfig,
    model: ModelConfig = ModelConfig(),
    training: TrainingConfig = TrainingConfig(),
    cross_validation: CrossValidationConfig = CrossValidationConfig(),
    export: ExportConfig = ExportConfig(),
    registry: RegistryConfig = RegistryConfig(),
    seed: int = 0,
) -> None:
    """Validate, split, plan, warm up, fine-tune, cross-validate, evaluate, export, register."""
    # Data
    manifest = ingest_images(data.root, data.limits)
    report, _ = validate_data(manifest, data.validation, data.bad_images, cross_validation.folds)
    split, folds = split_data(manifest, report, data.split, cross_validation.folds, seed)

    # The model
    pinned = pin(model)
    plan = plan_training(split, pinned, training, seed)
    warm = warm_up_head(split, pinned, training.loop, training.warm_up, plan, seed)
    tuned = fine_tune(split, warm, training.loop, training.fine_tune, plan, seed)

    # The evidence
    results = [
        train_fold(folds, fold, pinned, training, plan, seed, id=f"fold_{fold}")
        for fold in range(cross_validation.folds)
    ]
    summary, temperature = summarize_folds(results)
    holdout = evaluate_holdout(split, tuned, temperature, plan)

    # The file
    exported = export_onnx(manifest, tuned, temperature, summary, holdout, export.opset)
    check = validate_onnx(split, exported, tuned, temperature, export)
    registration = register_model(exported, check, tuned, registry)
    report_run(
        manifest, report, plan, warm, tuned, summary, holdout, exported, check, registration,
        parameters=TrainingParameters(
            data=data, model=model, training=training, cross_validation=cross_validation,
            export=export, registry=registry, seed=seed,
        ).model_dump_json(),
    )  # fmt: skip
