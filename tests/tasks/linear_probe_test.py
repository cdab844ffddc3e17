"""The linear classifier against a NumPy restatement of SGD with momentum, and its task."""

import jax
import numpy as np
import pytest

from pcm3_jax.runtime.files import save_arrays
from pcm3_jax.tasks import linear_probe
from pcm3_jax.tasks.common import Embedder, top_k_accuracy
from pcm3_jax.tasks.linear_probe import Linear, LinearProbe, train_classifier

# float32 against float64 over 20 epochs of a few steps.
TOLERANCE = 2e-5


def make_config(batch_size: int, epochs: int = 20, weight_decay: float = 0.0) -> Linear:
    config = Linear()
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
    """Also if the last batch is smaller, and if the batch size exceeds the data set."""
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


@pytest.mark.parametrize("cached_crops", [0, 2])
def test_linear_evaluation_encodes_each_crop_once(
    finished_run, run_config, tmp_path, monkeypatch, cached_crops
):
    run_config.encoder = str(finished_run[0])
    run_config.linear.cached_crops = cached_crops
    run_config.linear.epochs = 5
    draws, tested = [], []
    random, top_k = Embedder.random, top_k_accuracy
    monkeypatch.setattr(
        Embedder, "random", lambda *args: (draws.append(args[-1]), random(*args))[1]
    )
    monkeypatch.setattr(
        linear_probe, "top_k_accuracy", lambda *args: (tested.append(args), top_k(*args))[1]
    )
    results = LinearProbe().run(run_config, tmp_path)
    assert draws == ([0, 1] if cached_crops else [0, 1, 2, 3, 4])
    assert 0 <= results["top1"] <= results["top5"] <= 1
    (scores, labels, k), (_, _, other_k) = tested
    assert (k, other_k) == (1, 5)
    assert scores.shape[0] == len(labels) == 32


def test_only_process_0_writes_arrays(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    save_arrays(tmp_path / "a.npz", x=np.zeros(2))
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    for values in ([1, 2], [3]):
        save_arrays(tmp_path / "a.npz", x=np.array(values))
        with np.load(tmp_path / "a.npz") as file:
            assert file["x"].tolist() == values
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
