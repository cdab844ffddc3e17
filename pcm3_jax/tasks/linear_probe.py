"""Linear evaluation (Table 1): one linear layer on a frozen encoder's features."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from pcm3_jax.methods.optimizer import optimizer_of


def train_classifier(
    features: Callable[[int], jax.Array], labels: np.ndarray, classes: int, settings: ConfigDict,
    seed: int,
) -> dict[str, jax.Array]:  # fmt: skip
    """Trains a linear classifier on the features of each epoch's crops.

    Args:
      features: epoch → (S, F) features on the device, from 0.
      labels: (S,).
      classes: number of classes.
      settings: the ``linear`` section of the configuration.
      seed: of the initial weights and the order of the samples.

    Returns:
      {"kernel": (F, classes), "bias": (classes,)}.
    """
    count = len(labels)
    # A set smaller than the batch is one batch.
    batch_size = min(settings.batch_size, count)
    steps = -(-count // batch_size)
    optimizer = optimizer_of(settings, steps)
    key = jax.random.key(seed)
    width = features(0).shape[1]
    params = {
        # Its gradient is one product of the features as they lie.
        "turned_kernel": 0.01 * jax.random.normal(key, (width, classes)).T,
        "bias": jnp.zeros(classes),
    }
    opt_state = optimizer.init(params)
    targets = jnp.asarray(labels)
    for epoch in range(settings.epochs):
        order = _epoch_order(jax.random.fold_in(key, epoch), count, steps, batch_size)
        params, opt_state = _epoch(params, opt_state, features(epoch), targets, order, optimizer)
    return {"kernel": params["turned_kernel"].T, "bias": params["bias"]}


def _epoch_order(key, count: int, steps: int, batch_size: int) -> jax.Array:
    """(steps, batch_size) sample indices; -1 fills the last batch, which is kept."""
    order = jax.random.permutation(key, count)
    padding = jnp.full(steps * batch_size - count, -1, order.dtype)
    return jnp.concatenate([order, padding]).reshape(steps, batch_size)


@functools.partial(jax.jit, static_argnames="optimizer", donate_argnums=(0, 1))
def _epoch(params, opt_state, features, labels, order, optimizer):
    def loss(params, rows):
        scores = jnp.einsum("nf,kf->nk", features[rows], params["turned_kernel"]) + params["bias"]
        losses = optax.softmax_cross_entropy_with_integer_labels(scores, labels[rows])
        real = rows >= 0
        return (losses * real).sum() / real.sum()

    def step(carry, rows):
        params, opt_state = carry
        updates, opt_state = optimizer.update(jax.grad(loss)(params, rows), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    return jax.lax.scan(step, (params, opt_state), order)[0]


def ridge_scores(
    features: np.ndarray, labels: np.ndarray, queries: np.ndarray, classes: int, penalty: float
) -> np.ndarray:
    """Scores (Q, classes) of one-against-all ridge regression with an unpenalised offset.

    Args:
      features: (S, F) training features.
      labels: (S,).
      queries: (Q, F).
      classes: number of classes.
      penalty: weight of the squared coefficients.
    """
    # In double precision: the normal equations square the features' condition number.
    mean = features.mean(0, dtype=np.float64)
    centred = features - mean
    targets = np.where(labels[:, None] == np.arange(classes), 1.0, -1.0)
    offset = targets.mean(0)
    gram = centred.T @ centred + penalty * np.eye(centred.shape[1])
    coefficients = np.linalg.solve(gram, centred.T @ (targets - offset))
    return (queries - mean) @ coefficients + offset


def top_k_accuracy(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of rows of scores (S, classes) whose k largest include the label."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return float((best == labels[:, None]).any(1).mean())
