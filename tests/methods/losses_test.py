"""The losses against the slow restatement, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm3_jax.methods import losses
from tests import restatement

# Float32 rounding of losses up to 30, made of logits up to 20.
TOLERANCE = 1e-5

info_nce, similarity_kl, masked_mse = map(
    jax.jit, (losses.info_nce, losses.similarity_kl, losses.masked_mse)
)

# Few sizes, because each combination compiles.
rows_of = st.sampled_from([1, 4])
queues = st.sampled_from([1, 9])
temperatures = st.sampled_from([0.05, 0.07, 0.1, 1.0])
seeds = st.integers(0, 99)


def unit_rows(rng, rows):
    return restatement.unit(rng.normal(size=(rows, 3)))


@given(rows=rows_of, queued=queues, temperature=temperatures, seed=seeds)
def test_info_nce(rows, queued, temperature, seed):
    rng = np.random.default_rng(seed)
    z, k, queue = (unit_rows(rng, n) for n in (rows, rows, queued))
    expected, _ = restatement.info_nce(z, k, queue, temperature)
    similarity = jnp.asarray(z @ queue.T, jnp.float32)
    positive = jnp.asarray((z * k).sum(1), jnp.float32)
    loss = info_nce(similarity, positive, temperature)
    # A relative tolerance also for tiny losses: no cancellation when the positive dominates.
    assert loss == pytest.approx(expected, rel=TOLERANCE, abs=1e-20)


@given(rows=rows_of, queued=queues, temperature=temperatures, seed=seeds)
def test_similarity_kl(rows, queued, temperature, seed):
    rng = np.random.default_rng(seed)
    z, k, queue = (unit_rows(rng, n) for n in (rows, rows, queued))
    # Different temperatures, so that the test fails if they or the roles are swapped.
    expected = restatement.similarity_kl(z, k, queue, temperature, 2 * temperature)
    kl = similarity_kl(
        jnp.asarray(k @ queue.T, jnp.float32),
        jnp.asarray(z @ queue.T, jnp.float32),
        temperature,
        2 * temperature,
    )
    assert kl == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)


def test_similarity_kl_of_equal_similarities_is_zero():
    similarity = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8)), jnp.float32)
    assert similarity_kl(similarity, similarity, 0.1, 0.1) == pytest.approx(0, abs=1e-6)
    assert similarity_kl(similarity, -similarity, 0.1, 0.1) > 1


@given(rows=rows_of, frames=st.sampled_from([1, 6]), share=st.floats(0.1, 0.9), seed=seeds)
def test_masked_mse(rows, frames, share, seed):
    rng = np.random.default_rng(seed)
    target, prediction = rng.normal(size=(2, rows, frames, 2, 25, 3)).astype(np.float32)
    mask = (rng.random((frames, 25)) < share).astype(np.float32)
    mask[0, 0] = 0  # at least one cell
    visible = np.ones((frames, 2, 25), np.float32)
    visible[:, 0] = mask
    expected = restatement.masked_mse(prediction, target, mask)
    loss = masked_mse(jnp.asarray(target), jnp.asarray(prediction), jnp.asarray(visible))
    assert loss == pytest.approx(expected, rel=TOLERANCE)


def test_masked_mse_ignores_visible_joints():
    target, visible = jnp.zeros((2, 4, 2, 25, 3)), jnp.ones((4, 2, 25)).at[1, 0, 3].set(0)
    prediction = jnp.full(target.shape, 100.0).at[:, 1, 0, 3].set(2.0)
    assert masked_mse(target, prediction, visible) == 4
