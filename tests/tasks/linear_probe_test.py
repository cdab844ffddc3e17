"""The linear classifier against a NumPy restatement of SGD with momentum, and top-k accuracy."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict
from sklearn.linear_model import RidgeClassifier

from pcm3_jax.config import default_config
from pcm3_jax.tasks import linear_probe
from pcm3_jax.tasks.linear_probe import ridge_scores, top_k_accuracy, train_classifier

# float32 against float64 over 20 epochs of a few steps.
TOLERANCE = 2e-5


def make_config(batch_size: int, epochs: int = 20, weight_decay: float = 0.0) -> ConfigDict:
    config = default_config().linear
    config.update(epochs=epochs, batch_size=batch_size, learning_rate=0.3, decay_epochs=(8, 15))
    config.weight_decay = weight_decay
    return config


def make_data(count: int = 50, width: int = 6, classes: int = 4):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, count)
    centres = rng.normal(size=(classes, width))
    crops = [centres[labels] + 0.5 * rng.normal(size=(count, width)) for _ in range(3)]
    return [crop.astype(np.float32) for crop in crops], labels.astype(np.int32)


def restated(crops, labels, classes, config, seed):
    """SGD with momentum on the mean cross-entropy, one batch after the other."""
    key = jax.random.key(seed)
    count, width = crops[0].shape
    size = min(config.batch_size, count)
    kernel = 0.01 * np.asarray(jax.random.normal(key, (width, classes)), np.float64)
    bias = np.zeros(classes)
    velocity = [np.zeros_like(kernel), np.zeros_like(bias)]
    for epoch in range(config.epochs):
        rate = config.learning_rate * config.decay_factor ** sum(
            epoch >= e for e in config.decay_epochs
        )
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), count))
        for first in range(0, count, size):
            rows = order[first : first + size]
            x = crops[epoch % len(crops)][rows].astype(np.float64)
            scores = np.exp(x @ kernel + bias)
            error = scores / scores.sum(1, keepdims=True)
            error[np.arange(len(rows)), labels[rows]] -= 1
            gradients = [x.T @ error / len(rows), error.mean(0)]
            velocity = [
                config.momentum * v + g + config.weight_decay * p
                for v, g, p in zip(velocity, gradients, (kernel, bias), strict=True)
            ]
            kernel, bias = kernel - rate * velocity[0], bias - rate * velocity[1]
    return kernel, bias


@pytest.mark.parametrize("batch_size, weight_decay", [(50, 0), (16, 0), (25, 0.1), (1000, 0)])
def test_training_is_sgd(batch_size, weight_decay):
    """Also where the last batch is smaller, and where one batch holds more than there is."""
    crops, labels = make_data()
    config = make_config(batch_size, weight_decay=float(weight_decay))
    trained = train_classifier(lambda epoch: crops[epoch % 3], labels, 4, config, seed=5)
    kernel, bias = restated(crops, labels, 4, config, seed=5)
    np.testing.assert_allclose(trained["kernel"], kernel, atol=TOLERANCE)
    np.testing.assert_allclose(trained["bias"], bias, atol=TOLERANCE)


def test_it_learns_what_can_be_learnt():
    crops, labels = make_data()
    trained = train_classifier(lambda _: crops[0], labels, 4, make_config(16), seed=0)
    scores = crops[0] @ np.asarray(trained["kernel"]) + np.asarray(trained["bias"])
    assert top_k_accuracy(scores, labels, 1) > 0.9


def test_all_epochs_share_one_compiled_program():
    crops, labels = make_data(count=23)
    before = linear_probe._epoch._cache_size()
    train_classifier(lambda epoch: crops[epoch % 3], labels, 4, make_config(7, epochs=6), seed=0)
    assert linear_probe._epoch._cache_size() == before + 1


def test_every_sample_is_taken_once_an_epoch():
    order = np.asarray(linear_probe._epoch_order(jax.random.key(0), 23, 4, 7))
    assert sorted(order.reshape(-1)) == [-1] * 5 + list(range(23))
    assert (order[:-1] >= 0).all()


@given(st.integers(1, 6), st.integers(0, 1000))
def test_top_k_counts_labels_with_fewer_than_k_larger_scores(k, seed):
    rng = np.random.default_rng(seed)
    scores, labels = rng.permuted(np.tile(np.arange(6.0), (9, 1)), axis=1), rng.integers(0, 6, 9)
    larger = (scores > scores[np.arange(9), labels][:, None]).sum(1)
    assert top_k_accuracy(scores, labels, k) == pytest.approx((larger < k).mean())


def test_of_equal_scores_the_first_classes_count():
    scores = np.zeros((3, 4))
    assert top_k_accuracy(scores, np.array([0, 1, 2]), 1) == pytest.approx(1 / 3)
    assert top_k_accuracy(scores, np.array([0, 1, 2]), 2) == pytest.approx(2 / 3)


def test_five_of_fewer_classes_are_all():
    assert top_k_accuracy(np.zeros((2, 3)), np.array([0, 2]), 5) == 1


def test_ridge_scores_equal_scikit_learns():
    random = np.random.default_rng(0)
    features, queries = random.normal(size=(60, 7)), random.normal(size=(9, 7))
    labels = random.integers(0, 4, 60)
    ours = ridge_scores(features, labels, queries, 4, 2.5)
    theirs = RidgeClassifier(alpha=2.5).fit(features, labels).decision_function(queries)
    # Both in double precision; the solvers differ.
    np.testing.assert_allclose(ours, theirs, atol=1e-10)
