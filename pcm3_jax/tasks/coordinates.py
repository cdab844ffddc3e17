"""Task "baseline": classifies raw coordinates of whole sequences resampled to a few frames.

This project adds it to the tables; the paper has no such row.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pcm3_jax.runtime.parallel import Devices
from pcm3_jax.settings import TINY, Config, Section, section, setting
from pcm3_jax.tasks.common import Embedder, describe_splits, read_splits, top_k_accuracy
from pcm3_jax.tasks.knn import knn_accuracy
from pcm3_jax.tasks.task import Metric, Results, Task


@section
class Baseline(Section):
    """Classification from raw coordinates, for comparison."""

    frames: int = setting(16, "frames that sequences are resampled to", low=2)
    ridge_penalty: float = setting(1.0, "L2 penalty of the ridge regression", low=TINY)


class Coordinates(Task):
    """1-NN and ridge regression on coordinates, without an encoder."""

    name = "baseline"
    settings = {"baseline": Baseline}
    metrics = (
        Metric("knn_accuracy", "1-NN", "%", compared=True),
        Metric("ridge_accuracy", "ridge", "%", compared=True),
    )
    takes_encoder = False
    occludes = True

    def run(self, config: Config, workdir: Path) -> Results:
        devices, settings = Devices(config.mapping), config.of(Baseline)
        train_split, test_split = read_splits(config, devices)
        whole = config.copy()
        whole.views.update(frames=settings.frames, stream="joint", eval_crop_ratio=1.0)
        embedder = Embedder(raw_embedding, devices, whole)
        features, queries = (embedder.central({}, split) for split in (train_split, test_split))
        label, classes = train_split.label, len(train_split.classes)
        scores = ridge_scores(features, label, queries, classes, settings.ridge_penalty)
        return {
            "knn_accuracy": knn_accuracy(features, label, queries, test_split.label),
            "ridge_accuracy": top_k_accuracy(scores, test_split.label, 1),
        }

    def plan(self, config: Config, workdir: Path) -> Iterator[tuple[str, str]]:
        yield "data", describe_splits(*read_splits(config, Devices(config.mapping)))

    def compared(self, config: Config) -> tuple[str, str]:
        return "raw coordinates", "joint"


def raw_embedding(_: Any, poses: jax.Array) -> jax.Array:
    """Flattens poses (N, T, M, V, C), in metres, to features (N, T * 150)."""
    return poses.reshape(poses.shape[0], -1)


def ridge_scores(
    features: np.ndarray, labels: np.ndarray, queries: np.ndarray, classes: int, penalty: float
) -> np.ndarray:
    """Scores (Q, classes) of one-vs-rest ridge regression with an unpenalised intercept.

    Args:
      features: (S, F) training features.
      labels: (S,).
      queries: (Q, F).
      classes: number of classes.
      penalty: L2 penalty on the coefficients, above 0.
    """
    # Float64, because the normal equations square the condition number of the features.
    mean = features.mean(0, dtype=np.float64)
    centred = features - mean
    targets = np.where(labels[:, None] == np.arange(classes), 1.0, -1.0)
    offset = targets.mean(0)
    gram = centred.T @ centred + penalty * np.eye(centred.shape[1])
    coefficients = np.linalg.solve(gram, centred.T @ (targets - offset))
    return (queries - mean) @ coefficients + offset
