"""Task "linear_eval" (Table 1): one linear layer on a frozen encoder's features."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pcm3_jax.data.recordings import Recordings
from pcm3_jax.inference.model_file import CLASSIFIER_FILE
from pcm3_jax.methods.optimizer import build_optimizer
from pcm3_jax.runtime.files import save_arrays
from pcm3_jax.settings import Config, Training, section, setting
from pcm3_jax.tasks.common import EncoderTask, encoder, top_k_accuracy
from pcm3_jax.tasks.task import Cost, Metric, Results


@section
class Linear(Training):
    """Linear evaluation."""

    epochs: int = 100
    batch_size: int = 1024
    learning_rate: float = 0.1
    decay_epochs: tuple[int, ...] = (20, 50, 80)
    cached_crops: int = setting(
        0,
        "cached crops per sequence, used in turn; 0 (the protocol): a new crop each epoch",
        low=0,
    )


# Scores (S, classes), labels (S,) and names (S,) of the test split; fusions read it.
SCORES_FILE = "scores.npz"
METRICS = (
    Metric("top1", "linear", "%", compared=True),
    Metric("top5", "linear, top 5", "%"),
)


def accuracies(scores: np.ndarray, labels: np.ndarray) -> Results:
    """The values of `METRICS` for scores or probabilities (S, classes) and labels (S,)."""
    return {f"top{k}": top_k_accuracy(scores, labels, k) for k in (1, 5)}


class LinearProbe(EncoderTask):
    """Accuracy of a linear classifier on a frozen encoder."""

    name = "linear_eval"
    settings = {"linear": Linear}
    metrics = METRICS
    occludes = True

    def run(self, config: Config, workdir: Path) -> Results:
        """Trains and tests the classifier; writes classifier.npz and scores.npz to the workdir."""
        devices, settings = self.devices(config), config.of(Linear)
        embedder, variables = encoder(config, devices)
        train_split, test_split = self.read(config, devices)
        crops = settings.cached_crops or settings.epochs
        # Cached crops are encoded once and kept; otherwise each epoch has a new crop.
        cache = functools.lru_cache(maxsize=crops if settings.cached_crops else 1)
        features = cache(lambda crop: jnp.asarray(embedder.random(variables, train_split, crop)))
        classifier = train_classifier(
            lambda epoch: features(epoch % crops),
            train_split.label,
            len(train_split.classes),
            settings,
            config.seed,
        )
        classes = np.array(train_split.classes, str)
        save_arrays(
            workdir / CLASSIFIER_FILE,
            classes=classes,
            window=np.array(train_split.window),
            persons=np.array(train_split.persons),
            **classifier,
        )
        scores = embedder.central(variables, test_split) @ np.asarray(classifier["kernel"])
        scores += np.asarray(classifier["bias"])
        label, name = test_split.label, test_split.name
        save_arrays(workdir / SCORES_FILE, scores=scores, label=label, name=name)
        return accuracies(scores, label)

    def cost(self, config: Config, train_split: Recordings, test_split: Recordings) -> Cost:
        settings = config.of(Linear)
        crops = settings.cached_crops or settings.epochs
        return Cost(crops * len(train_split) + len(test_split), settings)


def train_classifier(
    features: Callable[[int], jax.Array], labels: np.ndarray, classes: int, settings: Linear,
    seed: int,
) -> dict[str, jax.Array]:  # fmt: skip
    """Trains a linear classifier on the features of each epoch's crops.

    Args:
      features: epoch (from 0) → features (S, F) on the device.
      labels: (S,).
      classes: number of classes.
      settings: the ``linear`` section of the configuration.
      seed: for the initial weights and the order of the samples.

    Returns:
      {"kernel": (F, classes), "bias": (classes,)}.
    """
    count = len(labels)
    # A data set smaller than the batch size is one batch.
    batch_size = min(settings.batch_size, count)
    steps = -(-count // batch_size)
    optimizer = build_optimizer(settings, steps)
    key = jax.random.key(seed)
    width = features(0).shape[1]
    params = {
        # Transposed, so that its gradient is a matmul of the features in their memory layout.
        "transposed_kernel": 0.01 * jax.random.normal(key, (width, classes)).T,
        "bias": jnp.zeros(classes),
    }
    opt_state = optimizer.init(params)
    targets = jnp.asarray(labels)
    for epoch in range(settings.epochs):
        order = _epoch_order(jax.random.fold_in(key, epoch), count, steps, batch_size)
        params, opt_state = _epoch(params, opt_state, features(epoch), targets, order, optimizer)
    return {"kernel": params["transposed_kernel"].T, "bias": params["bias"]}


def _epoch_order(key: jax.Array, count: int, steps: int, batch_size: int) -> jax.Array:
    """Sample indices (steps, batch_size); the last batch is padded with -1."""
    order = jax.random.permutation(key, count)
    padding = jnp.full(steps * batch_size - count, -1, order.dtype)
    return jnp.concatenate([order, padding]).reshape(steps, batch_size)


@functools.partial(jax.jit, static_argnames="optimizer", donate_argnums=(0, 1))
def _epoch(
    params: Any,
    opt_state: optax.OptState,
    features: jax.Array,
    labels: jax.Array,
    order: jax.Array,
    optimizer: optax.GradientTransformation,
) -> tuple[Any, optax.OptState]:
    def loss(params: Any, rows: jax.Array) -> jax.Array:
        scores = (
            jnp.einsum("nf,kf->nk", features[rows], params["transposed_kernel"]) + params["bias"]
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(scores, labels[rows])
        real = rows >= 0
        return (losses * real).sum() / real.sum()

    def step(carry: tuple[Any, Any], rows: jax.Array) -> tuple[tuple[Any, Any], None]:
        params, opt_state = carry
        updates, opt_state = optimizer.update(jax.grad(loss)(params, rows), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    return jax.lax.scan(step, (params, opt_state), order)[0]
