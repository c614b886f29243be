"""The training pipeline: from a folder of labelled photographs to a registered ONNX model.

zenml pipeline run pipelines.training.training_pipeline -c configs/demo.yaml
"""

from graft.config.parameters import (
    CrossValidationConfig,
    DataConfig,
    ExportConfig,
    ModelConfig,
    RegistryConfig,
    TrainingParameters,
)
from graft.config.training import TrainingConfig
from graft.integrations.strict_pipeline import strict_pipeline
from graft.models.weights import fingerprint_model
from steps.choose_recipe import choose_recipe
from steps.evaluate_holdout import evaluate_holdout
from steps.export_onnx import export_onnx
from steps.fine_tune import fine_tune
from steps.ingest_images import ingest_images
from steps.plan_training import plan_training
from steps.register_model import register_model
from steps.report_run import report_run
from steps.split_data import split_data
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
    """Validate, split, plan, cross-validate, choose, warm up, fine-tune, evaluate, export, register."""
    # Data
    manifest = ingest_images(data.root, data.limits, data.follow_links)
    report, _ = validate_data(manifest, data.validation, data.bad_images, cross_validation.folds)
    split, folds = split_data(manifest, report, data.split, cross_validation.folds, seed)

    # Cross-validation: the first fold tries every candidate, the others those that it leaves in the race. The
    # fingerprint is part of the cache key of each step, so a replaced weights file is noticed.
    fingerprinted = fingerprint_model(model)
    plan = plan_training(split, fingerprinted, training, seed)
    first = train_fold(folds, 0, fingerprinted, training, plan, seed, id="fold_0")
    others = [
        train_fold(folds, fold, fingerprinted, training, plan, seed, first, id=f"fold_{fold}")
        for fold in range(1, cross_validation.folds)
    ]
    recipe, summary, temperature = choose_recipe([first, *others], plan)

    # Final model, on all training images
    warm = warm_up_head(split, fingerprinted, training.train_config, training.warm_up, recipe, seed)
    tuned = fine_tune(split, warm, training.train_config, recipe, seed)

    # Evaluation on images that no model was trained on
    holdout = evaluate_holdout(split, tuned, temperature, recipe)

    # Export, comparison with torch, registration
    exported = export_onnx(manifest, tuned, temperature, summary, holdout, export.opset)
    check = validate_onnx(split, exported, tuned, temperature, export)
    registration = register_model(exported, check, tuned, registry)

    # Never cached, so that each MLflow run is complete even if all other steps were.
    report_run(
        manifest, report, recipe, warm, tuned, summary, holdout, exported, check, registration,
        parameters=TrainingParameters(
            data=data, model=model, training=training, cross_validation=cross_validation,
            export=export, registry=registry, seed=seed,
        ).model_dump_json(),
    )  # fmt: skip
