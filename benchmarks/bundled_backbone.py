"""Does the bundled backbone earn its place? Logistic regression on frozen features of handwritten digits.

Prints a table: the letters backbone, the same backbone with random weights, and raw pixels, from 10 images
a class (5 draws, tested on the rest) and in five folds on all 1,797.

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

from graft.config import ModelConfig
from graft.networks.backbones import LETTERS_PREPROCESSING, build, head_name
from graft.networks.transforms import for_evaluation, normalise

PER_CLASS, DRAWS, FOLDS = 10, 5, 5
INVERSE_PENALTIES = (0.001, 0.01, 0.1, 1.0)


def frozen_features(weights: str, images: np.ndarray) -> np.ndarray:
    """The backbone's pooled output, float32 ``[images, 576]``, of 8 x 8 px digits with values 0 to 16."""
    model = build(ModelConfig(architecture="mobilenet_v3_small", weights=weights), classes=10, seed=0)
    setattr(model, head_name(model), nn.Identity())
    pixels = torch.from_numpy(np.rint(images * (255 / 16)).astype(np.uint8))
    shaped = torch.stack([for_evaluation(image.expand(3, 8, 8), LETTERS_PREPROCESSING) for image in pixels])
    with torch.inference_mode():
        batches = torch.split(normalise(shaped, LETTERS_PREPROCESSING), 256)
        return torch.cat([model.eval()(batch) for batch in batches]).numpy()


def few_labels(classifier: object, features: np.ndarray, labels: np.ndarray) -> list[float]:
    """Accuracy on the rest after training on 10 images a class, one value a draw."""
    scores = []
    for draw in range(DRAWS):
        generator = np.random.default_rng(draw)
        chosen = np.concatenate(
            [generator.permutation(np.flatnonzero(labels == c))[:PER_CLASS] for c in range(10)]
        )
        rest = np.setdiff1d(np.arange(len(labels)), chosen)
        fitted = classifier.fit(features[chosen], labels[chosen])  # type: ignore[attr-defined]
        scores.append(float(fitted.score(features[rest], labels[rest])))
    return scores


def main() -> None:
    """Print the table; the penalty is chosen by cross-validation inside each training set."""
    digits = load_digits()
    rows = {
        "letters backbone": frozen_features("letters", digits.images),
        "random weights": frozen_features("none", digits.images),
        "raw pixels": digits.data,
    }
    print("| frozen features | 10 a class | all, five folds |\n|---|---|---|")
    for name, features in rows.items():
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
        few = np.array(few_labels(classifier, features, digits.target))
        every = cross_val_score(classifier, features, digits.target, cv=folds, n_jobs=2)
        cells = " | ".join(f"{scores.mean():.3f} ± {scores.std(ddof=1):.3f}" for scores in (few, every))
        print(f"| {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
