"""Evaluations of a frozen encoder: retrieval, linear evaluation, fusion; and of none at all."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from pcm3_jax.errors import UserError
from pcm3_jax.runtime.files import save_arrays
from pcm3_jax.runtime.parallel import Devices
from pcm3_jax.tasks.features import Embedder, raw_embedding
from pcm3_jax.tasks.inputs import encoder, read_splits, retrieval_accuracy
from pcm3_jax.tasks.knn import knn_accuracy
from pcm3_jax.tasks.linear_probe import ridge_scores, top_k_accuracy, train_classifier

Results = dict[str, Any]


def retrieval(config: ConfigDict, workdir: Path) -> Results:
    """1-NN accuracy of an encoder (Table 3)."""
    del workdir
    devices = Devices(config.mapping)
    embedder, variables = encoder(config, devices)
    train_split, test_split = read_splits(config, devices)
    return {"knn_accuracy": retrieval_accuracy(embedder, variables, train_split, test_split)}


def linear_eval(config: ConfigDict, workdir: Path) -> Results:
    """Accuracy of a linear classifier on a frozen encoder (Table 1)."""
    devices = Devices(config.mapping)
    embedder, variables = encoder(config, devices)
    train_split, test_split = read_splits(config, devices)
    crops = config.linear.cached_crops or config.linear.epochs
    # With cached crops every crop is encoded once; else this holds nothing worth keeping.
    cache = functools.lru_cache(maxsize=crops if config.linear.cached_crops else 1)
    features = cache(lambda crop: jnp.asarray(embedder.random(variables, train_split, crop)))
    classifier = train_classifier(
        lambda epoch: features(epoch % crops),
        train_split.label,
        len(train_split.classes),
        config.linear,
        config.seed,
    )
    classes = np.array(train_split.classes, str)
    save_arrays(workdir / "classifier.npz", classes=classes, **classifier)
    scores = embedder.central(variables, test_split) @ np.asarray(classifier["kernel"])
    scores += np.asarray(classifier["bias"])
    label, name = test_split.label, test_split.name
    save_arrays(workdir / "scores.npz", scores=scores, label=label, name=name)
    return {
        "top1": top_k_accuracy(scores, label, 1),
        "top5": top_k_accuracy(scores, label, 5),
    }


def fusion(config: ConfigDict, workdir: Path) -> Results:
    """Accuracy of a weighted sum of the scores of several linear evaluations (3s, Table 1)."""
    del workdir
    total: Any = 0.0
    label: Any = None
    name: Any = None
    paths = fused_scores(config)
    for path, weight in zip(paths, config.fusion.weights, strict=True):
        with np.load(path) as found:
            if name is not None and not np.array_equal(found["name"], name):
                raise UserError(
                    f"{paths[0].parent} and {path.parent} were not tested on the same sequences."
                )
            # As probabilities, since the scales of scores differ between encoders.
            total = total + weight * np.asarray(jax.nn.softmax(found["scores"]))
            label, name = found["label"], found["name"]
    return {"top1": top_k_accuracy(total, label, 1), "top5": top_k_accuracy(total, label, 5)}


def fused_scores(config: ConfigDict) -> list[Path]:
    """The files of scores that a fusion needs.

    Raises:
      UserError: one is missing, or the weights are not as many.
    """
    runs, weights = config.fusion.runs, config.fusion.weights
    if not runs or len(runs) != len(weights):
        raise UserError(
            f"config.fusion.runs names {len(runs)} workdirs and config.fusion.weights has "
            f"{len(weights)} numbers: give one weight for each linear evaluation."
        )
    paths = [Path(run) / "scores.npz" for run in runs]
    for path in paths:
        if not path.exists():
            raise UserError(
                f"There is no finished linear evaluation in {path.parent}: run it first."
            )
    return paths


def baseline(config: ConfigDict, workdir: Path) -> Results:
    """Accuracy of coordinates alone, whole sequences resampled to a few frames."""
    del workdir
    devices = Devices(config.mapping)
    train_split, test_split = read_splits(config, devices)
    views = {"frames": config.baseline.frames, "stream": "joint", "eval_crop_ratio": 1.0}
    embedder = Embedder(raw_embedding, devices, ConfigDict(config.to_dict() | {"views": views}))
    train_features = embedder.central({}, train_split)
    test_features = embedder.central({}, test_split)
    scores = ridge_scores(
        train_features, train_split.label, test_features, len(train_split.classes),
        config.baseline.ridge_penalty,
    )  # fmt: skip
    return {
        "knn_accuracy": knn_accuracy(
            train_features, train_split.label, test_features, test_split.label
        ),
        "ridge_accuracy": top_k_accuracy(scores, test_split.label, 1),
    }
