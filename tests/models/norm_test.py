"""Batch normalisation per pass, in PyTorch's conventions."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pcm3_jax.models.norm import BatchNorm, Moments
from tests import restatement

FEATURES = 4
# Float32 rounding of normalised values, at most some 5 in size.
TOLERANCE = 5e-6

rng = np.random.default_rng(0)
SCALE, BIAS = rng.normal(size=(2, FEATURES)).astype(np.float32)
MEAN = rng.normal(size=FEATURES).astype(np.float32)
VARIANCE = rng.uniform(0.5, 2, FEATURES).astype(np.float32)
VARIABLES = {
    "params": {"scale": SCALE, "bias": BIAS},
    "batch_stats": {"mean": MEAN, "variance": VARIANCE},
}


def forward_train(x, pass_axis=0, axis_name=None, **kwargs):
    norm = BatchNorm(FEATURES, axis_name)
    return norm.apply(VARIABLES, x, pass_axis, method=BatchNorm.forward_train, **kwargs)


def passes(count=3) -> np.ndarray:
    """(P, N, T, F), each pass with a mean and spread of its own."""
    x = rng.normal(size=(count, 5, 6, FEATURES))
    x = x * np.arange(1, count + 1)[:, None, None, None] + rng.normal(size=(count, 1, 1, FEATURES))
    return x.astype(np.float32)


@pytest.mark.parametrize("pass_axis", [0, 1, 2])
def test_each_pass_is_normalised_by_its_own_batch(pass_axis):
    x = passes()
    moved = jnp.asarray(np.moveaxis(x, 0, pass_axis))
    y, moments = forward_train(moved, pass_axis)
    y = np.moveaxis(np.asarray(y), pass_axis, 0)
    assert moments.mean.shape == moments.variance.shape == (3, FEATURES)
    for i in range(3):
        expected, mean, unbiased = restatement.batch_norm(x[i], SCALE, BIAS)
        np.testing.assert_allclose(y[i], expected, rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(moments.mean[i], mean, rtol=0, atol=TOLERANCE)
        # 30 values: the biased variance would be 3 % smaller.
        np.testing.assert_allclose(moments.variance[i], unbiased, rtol=1e-6)


def test_forward_train_leaves_the_running_statistics_unchanged():
    x = jnp.asarray(passes())
    _, updated = forward_train(x, mutable=["batch_stats"])
    chex.assert_trees_all_equal(updated["batch_stats"], VARIABLES["batch_stats"])


def record(*moments: Moments):
    def both(norm):
        for m in moments:
            norm.record(m)

    _, updated = BatchNorm(FEATURES).apply(VARIABLES, method=both, mutable=["batch_stats"])
    return updated["batch_stats"]


def test_running_statistics_are_updated_pass_by_pass_in_order():
    first, second = (
        Moments(jnp.full((1, FEATURES), m), jnp.full((1, FEATURES), v))
        for m, v in ((1.0, 2.0), (-3.0, 5.0))
    )
    both = Moments(*(jnp.concatenate(p) for p in zip(*map(jax.tree.leaves, (first, second)))))  # noqa: B905
    expected_mean, expected_variance = MEAN, VARIANCE
    for m, v in ((1.0, 2.0), (-3.0, 5.0)):
        expected_mean = 0.9 * expected_mean + 0.1 * m
        expected_variance = 0.9 * expected_variance + 0.1 * v
    for stats in (record(first, second), record(both)):
        np.testing.assert_allclose(stats["mean"], expected_mean, rtol=0, atol=1e-6)
        np.testing.assert_allclose(stats["variance"], expected_variance, rtol=0, atol=1e-6)
    # The order matters by (0.9 · 0.1 - 0.1) of the difference.
    swapped = record(second, first)
    assert np.abs(swapped["mean"] - expected_mean).min() > 0.03


def test_inference_uses_the_running_statistics():
    x = passes(1)[0]
    y = BatchNorm(FEATURES).apply(VARIABLES, jnp.asarray(x))
    expected = (x - MEAN) / np.sqrt(VARIANCE + 1e-5) * SCALE + BIAS
    np.testing.assert_allclose(y, expected, rtol=0, atol=TOLERANCE)


def test_devices_normalise_by_the_global_batch():
    # Shares whose means differ, so that the mean of their variances would be wrong.
    x = passes(2) + np.arange(5, dtype=np.float32)[:, None, None]
    shares = jnp.asarray(x.reshape(2, 5, 1, 6, FEATURES).swapaxes(0, 1))
    y, moments = jax.vmap(lambda share: forward_train(share, 0, "data"), axis_name="data")(shares)
    whole, expected = forward_train(jnp.asarray(x))
    joined = np.asarray(y).swapaxes(0, 1).reshape(x.shape)
    np.testing.assert_allclose(joined, whole, rtol=0, atol=TOLERANCE)
    for device in range(5):
        np.testing.assert_allclose(moments.mean[device], expected.mean, rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(moments.variance[device], expected.variance, rtol=1e-5)


def test_bfloat16_input_is_normalised_in_float32():
    x = jnp.asarray(passes(1), jnp.bfloat16)
    y, moments = forward_train(x)
    assert y.dtype == moments.mean.dtype == moments.variance.dtype == jnp.float32
    expected, _, _ = restatement.batch_norm(np.asarray(x[0], np.float32), SCALE, BIAS)
    np.testing.assert_allclose(y[0], expected, rtol=0, atol=TOLERANCE)


def test_initialises_to_the_identity():
    x = jnp.asarray(passes(1))
    variables = BatchNorm(FEATURES).init(jax.random.key(0), x)
    assert (variables["params"]["scale"] == 1).all() and not variables["params"]["bias"].any()
    stats = variables["batch_stats"]
    assert (stats["variance"] == 1).all() and not stats["mean"].any()
