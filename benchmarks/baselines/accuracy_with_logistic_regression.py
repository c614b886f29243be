"""scikit-learn's logistic regression on the pooled features of the frozen network, one centre crop per image.

Its C is the one with the lowest log loss in five folds of the training images.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from baselines.task import WORKERS, Outcome, Task, load_mobilenet_v2
from plain_loop import BATCH_SIZE, CENTER_CROP, predict

LR_FACTORS = (1.0,)  # it has no learning rate
GRID = {"logisticregression__C": np.logspace(-5, 2, 8)}


def train_and_predict(task: Task) -> Outcome:
    """Choose C, fit, and predict."""
    start = time.perf_counter()
    network = load_mobilenet_v2(task.weights)
    network.classifier = nn.Identity()
    images, holdout = (ImageFolder(task.data / part, CENTER_CROP) for part in ("train", "val"))
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)), GRID, scoring="neg_log_loss",
        cv=StratifiedKFold(5, shuffle=True, random_state=task.seed),
    )  # fmt: skip
    search.fit(pooled_features(network, images), images.targets)
    seconds = time.perf_counter() - start
    paths = [str(Path(path).relative_to(task.data)) for path, _ in holdout.samples]
    probabilities = search.predict_proba(pooled_features(network, holdout))
    return Outcome(paths, probabilities, seconds, {"C": float(search.best_params_["logisticregression__C"])})


def pooled_features(network: nn.Module, images: ImageFolder) -> np.ndarray:
    """Features of the centre crops, float32 ``[images, 1280]``."""
    features: torch.Tensor = predict(network, DataLoader(images, BATCH_SIZE, num_workers=WORKERS))
    return features.numpy()
