"""Evaluates the bundled backbone: logistic regression on its frozen features of handwritten digits.

Prints a table for the letters backbone, the same backbone with random weights, and raw pixels: accuracy when trained
on 10 images per class (5 random training sets, tested on all other images), and in five folds on all 1,797.

    python benchmarks/bundled_backbone.py
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from graft.config.parameters import ModelConfig
from graft.models.backbones import LETTERS_PREPROCESSING, build_model
from graft.models.stages import head_name
from graft.models.transforms import normalize, resize_and_crop

PER_CLASS, DRAWS, FOLDS = 10, 5, 5
INVERSE_PENALTIES = (0.001, 0.01, 0.1, 1.0)


def frozen_features(weights: str, images: np.ndarray) -> np.ndarray:
    """The backbone's pooled output, float32 ``[images, 576]``, for digits of 8 x 8 px with values 0 to 16."""
    model = build_model(ModelConfig(architecture="mobilenet_v3_small", weights=weights), classes=10, seed=0)
    setattr(model, head_name(model), nn.Identity())
    pixels = torch.from_numpy(np.rint(images * (255 / 16)).astype(np.uint8))
    crops = torch.stack([resize_and_crop(image.expand(3, 8, 8), LETTERS_PREPROCESSING) for image in pixels])
    with torch.inference_mode():
        batches = torch.split(normalize(crops, LETTERS_PREPROCESSING), 256)
        return torch.cat([model.eval()(batch) for batch in batches]).numpy()


def few_shot_accuracies(classifier: object, features: np.ndarray, labels: np.ndarray) -> list[float]:
    """Test accuracy after training on 10 images per class, one value for each random training set."""
    accuracies = []
    for draw in range(DRAWS):
        generator = np.random.default_rng(draw)
        train = np.concatenate([generator.permutation(np.flatnonzero(labels == c))[:PER_CLASS] for c in range(10)])
        test = np.setdiff1d(np.arange(len(labels)), train)
        fitted = classifier.fit(features[train], labels[train])  # type: ignore[attr-defined]
        accuracies.append(float(fitted.score(features[test], labels[test])))
    return accuracies


def main() -> None:
    """Print the table; the penalty is chosen by cross-validation inside each training set."""
    digits = load_digits()
    inputs = {
        "letters backbone": frozen_features("letters", digits.images),
        "random weights": frozen_features("none", digits.images),
        "raw pixels": digits.data,
    }
    print("| frozen features | 10 images per class | all, five folds |\n|---|---|---|")
    for name, features in inputs.items():
        classifier = make_pipeline(
            StandardScaler(),
            LogisticRegressionCV(
                Cs=INVERSE_PENALTIES,
                cv=3,
                max_iter=1000,
                scoring="accuracy",
                l1_ratios=(0,),
                use_legacy_attributes=False,
            ),
        )
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
        few_shot = np.array(few_shot_accuracies(classifier, features, digits.target))
        cross_validated = cross_val_score(classifier, features, digits.target, cv=folds, n_jobs=2)
        columns = (few_shot, cross_validated)
        cells = " | ".join(f"{scores.mean():.3f} ± {scores.std(ddof=1):.3f}" for scores in columns)
        print(f"| {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
