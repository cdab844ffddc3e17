"""The optimizers, their schedules, and recipes scaled to another batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pcm3_jax.config import Config, default_config
from pcm3_jax.methods.optimizer import (
    build_optimizer,
    learning_rate_schedule,
    scaled_to_batch,
)
from pcm3_jax.settings import Training
from tests.running import losses


def test_sgd_matches_pytorch():
    config = default_config()
    config.optimizer.update(
        learning_rate=0.5, momentum=0.8, weight_decay=0.1, decay_epochs=(2, 3), decay_factor=0.1
    )
    steps_per_epoch = 3
    optimizer = build_optimizer(config.optimizer, steps_per_epoch)
    rng = np.random.default_rng(0)
    ours = {"a": jnp.asarray(rng.normal(size=4), jnp.float32), "b": jnp.float32(1.5)}
    stated = {name: np.asarray(p, float) for name, p in ours.items()}
    buffers = dict.fromkeys(stated, 0.0)
    opt_state = optimizer.init(ours)
    for step in range(12):
        gradients = {name: rng.normal(size=p.shape) for name, p in stated.items()}
        updates, opt_state = optimizer.update(jax.tree.map(jnp.float32, gradients), opt_state, ours)
        ours = {name: p + updates[name] for name, p in ours.items()}
        rate = {0: 0.5, 1: 0.5, 2: 0.05, 3: 0.005}[step // steps_per_epoch]
        for name in stated:
            buffers[name] = 0.8 * buffers[name] + gradients[name] + 0.1 * stated[name]
            stated[name] = stated[name] - rate * buffers[name]
            # Float32 rounding over twelve steps of numbers below 10.
            np.testing.assert_allclose(ours[name], stated[name], rtol=0, atol=5e-6)


def test_published_schedule_drops_once_after_351_epochs():
    config = default_config()
    optimizer = build_optimizer(config.optimizer, steps_per_epoch=2)
    params = {"x": jnp.float32(1.0)}
    config.optimizer.weight_decay = 0.0
    fresh = optimizer.init(params)
    sizes = []
    for step in (0, 2 * 351 - 1, 2 * 351, 2 * 451 - 1):
        counted = jax.tree.map(lambda x, s=step: jnp.asarray(s, x.dtype) if x.ndim == 0 and
                               x.dtype == jnp.int32 else x, fresh)  # fmt: skip
        updates, _ = optimizer.update({"x": jnp.float32(1.0)}, counted, params)
        # The gradient and the decay, 1e-4 of a parameter of one.
        sizes.append(-float(updates["x"]) / 1.0001)
    assert sizes == pytest.approx([0.02, 0.02, 0.002, 0.002], rel=1e-6)


def test_adamw_decouples_weight_decay():
    """Decoupled decay: the first step is the sign of the gradient plus the decayed parameter."""
    config = default_config()
    config.optimizer.update(name="adamw", learning_rate=0.01, weight_decay=0.1)
    optimizer = build_optimizer(config.optimizer, 10)
    params = {"x": jnp.array([2.0, -4.0])}
    updates, _ = optimizer.update({"x": jnp.array([0.3, 5.0])}, optimizer.init(params), params)
    # The bias correction divides by 1 - 0.999 in float32, which has five digits.
    np.testing.assert_allclose(updates["x"], [-0.01 * (1 + 0.2), -0.01 * (1 - 0.4)], rtol=1e-4)


def first_update(settings: Training, params, gradients):
    optimizer = build_optimizer(settings, steps_per_epoch=10)
    return optimizer.update(gradients, optimizer.init(params), params)[0]


def test_lars_scales_kernels_only():
    settings = default_config().optimizer
    settings.update(name="lars", learning_rate=0.5, weight_decay=0.1, momentum=0.9)
    rng = np.random.default_rng(0)
    params = {
        "layer": {
            "recurrent_kernel": rng.normal(size=(2, 3, 9)).astype(np.float32),
            "recurrent_bias": rng.normal(size=(2, 9)).astype(np.float32),
        },
        "domain_intra": rng.normal(size=5).astype(np.float32),
    }
    gradients = jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), params)
    updates = first_update(settings, params, gradients)

    kernel, gradient = (t["layer"]["recurrent_kernel"] for t in (params, gradients))
    decayed = gradient + 0.1 * kernel
    trust = 0.001 * np.linalg.norm(kernel) / np.linalg.norm(decayed)
    np.testing.assert_allclose(
        updates["layer"]["recurrent_kernel"], -0.5 * trust * decayed, rtol=1e-5
    )
    for update, plain in (
        (updates["layer"]["recurrent_bias"], gradients["layer"]["recurrent_bias"]),
        (updates["domain_intra"], gradients["domain_intra"]),
    ):
        np.testing.assert_allclose(update, -0.5 * plain, rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_every_optimizer_follows_the_schedule(name):
    settings = default_config().optimizer
    settings.update(name=name, weight_decay=0.0, momentum=0.0, warmup_epochs=1, decay_epochs=(2,))
    optimizer = build_optimizer(settings, steps_per_epoch=2)
    params = {"kernel": jnp.array([3.0, 4.0])}
    state = optimizer.init(params)
    sizes = []
    for _ in range(6):
        update, state = optimizer.update({"kernel": jnp.array([1.0, 1.0])}, state, params)
        sizes.append(optax.tree.norm(update))
    # Half of the rate, the rate, and a tenth of it after the second epoch.
    np.testing.assert_allclose(np.array(sizes) / sizes[1], [0.5, 1, 1, 1, 0.1, 0.1], rtol=1e-3)


def test_warmup_rises_linearly_before_the_schedule():
    settings = default_config().optimizer
    settings.update(learning_rate=0.4, warmup_epochs=2, decay_epochs=(1, 4), decay_factor=0.5)
    rate = jax.vmap(learning_rate_schedule(settings, steps_per_epoch=2))(jnp.arange(10))
    np.testing.assert_allclose(rate, [0.1, 0.2, 0.15, 0.2, 0.2, 0.2, 0.2, 0.2, 0.1, 0.1], rtol=1e-6)


def recipe(reference: int, batch_size: int) -> Config:
    config = default_config()
    config.optimizer.update(reference_batch_size=reference, batch_size=batch_size)
    return scaled_to_batch(config)


def test_a_larger_batch_scales_learning_rate_and_momentum_and_fits_the_queue():
    scaled = recipe(128, 1024)
    assert scaled.optimizer.learning_rate == pytest.approx(0.16)
    assert scaled.method.key_momentum == pytest.approx(0.999**8)
    assert scaled.method.queue_size == 16384
    assert recipe(128, 32768).method.queue_size == 32768
    # Scaling again changes nothing.
    assert scaled_to_batch(scaled) == scaled
    same = default_config()
    assert recipe(0, 128) == same
    same.optimizer.reference_batch_size = 128
    assert scaled_to_batch(same) == default_config()


def test_scaled_momentum_is_equal_per_sample():
    """κ small steps of a constant drift and one scaled step end at the same distance."""
    momentum = recipe(128, 512).method.key_momentum
    key = functools.reduce(lambda k, _: 0.999 * k + 0.001, range(4), 0.0)
    assert momentum * 0.0 + (1 - momentum) == pytest.approx(key)


def test_a_run_uses_the_scaled_settings(program, tmp_path):
    """The run's batch is 16."""
    short = "--config.optimizer.epochs=1"
    scaled, spelt_out = tmp_path / "scaled", tmp_path / "spelt_out"
    for workdir, numbers in (
        (scaled, {"optimizer.reference_batch_size": 8}),
        (spelt_out, {"optimizer.learning_rate": 0.04, "method.key_momentum": 0.999**2}),
    ):
        settings = [f"--config.{key}={value}" for key, value in numbers.items()]
        assert program.run(workdir, short, *settings)[0] == 0
    np.testing.assert_array_equal(losses(scaled), losses(spelt_out))
