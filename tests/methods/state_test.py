"""The state before the first step."""

import functools
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pcm3_jax.config import default_config
from pcm3_jax.methods import state as state_module
from pcm3_jax.methods.optimizer import build_optimizer
from pcm3_jax.methods.state import build_model, create_state
from pcm3_jax.settings import POSITIVES

HIDDEN, DECODER_HIDDEN, WIDTH, FEATURES = 40, 36, 20, 150


@functools.cache
def initial():
    """(state, the same from another seed), large enough for statistics."""
    config = default_config()
    config.model.hidden = HIDDEN
    config.model.decoder_hidden = DECODER_HIDDEN
    config.model.projection = 32
    config.model.prompt_width = WIDTH
    config.method.queue_size = 200
    model, optimizer = build_model(config), build_optimizer(config.optimizer, 10)

    # A configuration's seed cannot be traced; so one compilation serves both.
    def create(seed):
        seeded = types.SimpleNamespace(seed=seed, method=config.method)
        return create_state(model, optimizer, seeded)

    create = jax.jit(create)
    return create(0), create(1)


def is_uniform(x, bound: float) -> None:
    """Checks that entries are U(-bound, bound): extremes, mean and standard deviation.

    The mean of n entries has standard error bound / √(3n), the standard deviation a smaller one;
    the tolerance is five times that.  Keys are fixed.
    """
    x = np.asarray(x, np.float64)
    slack = 5 * bound / np.sqrt(3 * x.size)
    assert np.abs(x).max() <= bound * (1 + 1e-6)
    assert abs(x.mean()) <= slack
    assert abs(x.std() - bound / np.sqrt(3)) <= slack
    # The largest of 60 or more draws is below 0.85 of the bound with probability 1 / 17,000.
    assert np.abs(x).max() > 0.85 * bound


def xavier(fan_in: int, fan_out: int) -> float:
    return (6 / (fan_in + fan_out)) ** 0.5


@pytest.mark.parametrize("layer", range(3))
def test_encoder_grus_are_xavier_uniform_in_each_direction(layer):
    gru = initial()[0].params["encoder"]["gru"][f"layer_{layer}"]
    inputs = FEATURES if layer == 0 else 2 * HIDDEN
    assert gru["input_kernel"].shape == (2, inputs, 3 * HIDDEN)
    assert gru["recurrent_kernel"].shape == (2, HIDDEN, 3 * HIDDEN)
    for direction in range(2):
        # The three gates' matrices count as one, of 3H outputs.
        is_uniform(gru["input_kernel"][direction], xavier(inputs, 3 * HIDDEN))
        is_uniform(gru["recurrent_kernel"][direction], xavier(HIDDEN, 3 * HIDDEN))
        is_uniform(gru["input_bias"][direction], HIDDEN**-0.5)
        is_uniform(gru["recurrent_bias"][direction], HIDDEN**-0.5)
    for name in ("input_bias", "recurrent_bias"):
        assert (gru[name][0] != gru[name][1]).all()
    assert (gru["input_kernel"][0] != gru["input_kernel"][1]).mean() > 0.99
    assert (gru["recurrent_kernel"][0] != gru["recurrent_kernel"][1]).mean() > 0.99


def test_projector():
    projector = initial()[0].params["projector"]
    is_uniform(projector["inner"]["kernel"], (2 * HIDDEN) ** -0.5)
    is_uniform(projector["inner"]["bias"], (2 * HIDDEN) ** -0.5)
    is_uniform(projector["outer"]["kernel"], xavier(2 * HIDDEN, 32))
    assert np.abs(projector["outer"]["bias"]).max() <= (2 * HIDDEN) ** -0.5
    assert projector["outer"]["bias"].all()


def test_decoder_has_pytorchs_default_initialisation():
    decoder = initial()[0].params["decoder"]
    for name, fan_in in (
        ("reduce", 2 * HIDDEN), ("mix", DECODER_HIDDEN), ("reconstruct", DECODER_HIDDEN)
    ):  # fmt: skip
        is_uniform(decoder[name]["kernel"], fan_in**-0.5)
        assert decoder[name]["bias"].all()
        assert np.abs(decoder[name]["bias"]).max() <= fan_in**-0.5
    assert decoder["gru"].keys() == {"layer_0", "layer_1"}
    for layer in decoder["gru"].values():
        assert layer["input_kernel"].shape == (1, DECODER_HIDDEN, 3 * DECODER_HIDDEN)
        for leaf in layer.values():
            is_uniform(leaf, DECODER_HIDDEN**-0.5)


def test_prompts():
    prompts = initial()[0].params["prompts"]
    domains = [prompts[f"domain_{name}"] for name in POSITIVES]
    for prompt in domains:
        assert prompt.shape == (FEATURES,)
        is_uniform(prompt, (6 / 300) ** 0.5)
    tasks = [prompts["task_contrast"], prompts["task_predict"]]
    for prompt in tasks:
        assert prompt.shape == (2 * WIDTH,)
        bound = (6 / (2 * WIDTH + 1)) ** 0.5
        assert 0.8 * bound < np.abs(prompt).max() <= bound
    # Each is drawn independently.
    assert len({np.asarray(p).tobytes() for p in domains + tasks}) == len(prompts) == 6


def test_parameters_are_float32_and_norms_start_as_the_identity():
    state = initial()[0]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.params))
    norms = [state.params["encoder"]["input_norm"], state.params["decoder"]["norm"]]
    for norm in norms:
        assert (norm["scale"] == 1).all() and (norm["bias"] == 0).all()
    stats = [
        state.batch_stats["encoder"]["input_norm"],
        state.batch_stats["decoder"]["norm"],
        state.key_batch_stats["encoder"]["input_norm"],
    ]
    for stat in stats:
        assert (stat["mean"] == 0).all() and (stat["variance"] == 1).all()


def test_the_key_encoder_is_a_copy(small_config, monkeypatch):
    model, optimizer = build_model(small_config), build_optimizer(small_config.optimizer, 10)
    shapes = jax.eval_shape(lambda: state_module.init_variables(model, jax.random.key(0)))
    # Replaced because compiling the initialiser takes seconds.
    drawn = jax.tree.map(lambda x: jnp.full(x.shape, 0.5), shapes)
    monkeypatch.setattr(state_module, "init_variables", lambda *_: drawn)
    state = create_state(model, optimizer, small_config)
    assert state.key_params.keys() == {"encoder", "projector"}
    for name in state.key_params:
        chex.assert_trees_all_equal(state.key_params[name], state.params[name])
    buffers = [
        leaf.unsafe_buffer_pointer()
        for tree in (state.params, state.key_params, state.batch_stats, state.key_batch_stats)
        for leaf in jax.tree.leaves(tree)
    ]
    assert len(set(buffers)) == len(buffers)
    # No buffer is shared, so that the whole state can be donated.
    moved = jax.jit(lambda s: s.replace(step=s.step + 1), donate_argnums=0)(state)
    assert moved.step == 1 and state.queue.is_deleted()


def test_the_queue_starts_as_random_unit_vectors():
    queue = np.asarray(initial()[0].queue)
    assert queue.shape == (200, 32)
    np.testing.assert_allclose(np.linalg.norm(queue, axis=1), 1, rtol=0, atol=1e-6)
    # Uniform on the sphere: every coordinate has variance 1/32, pairs no correlation.
    np.testing.assert_allclose(queue.std(), 32**-0.5, rtol=0.02)
    products = (queue @ queue.T)[~np.eye(200, dtype=bool)]
    assert abs(products.mean()) < 0.01 and products.max() < 0.95


def test_counters_start_at_zero_and_finite():
    state = initial()[0]
    assert state.step == 0 and state.queue_pointer == 0 and state.finite
    assert state.step.dtype == state.queue_pointer.dtype == jnp.int32
    assert state.finite.dtype == jnp.bool_


def test_the_state_is_a_function_of_the_seed():
    first, other = initial()
    for name in ("queue", "params"):
        pairs = zip(
            jax.tree.leaves(getattr(first, name)), jax.tree.leaves(getattr(other, name)),
            strict=True,
        )  # fmt: skip
        differs = [bool((a != b).any()) for a, b in pairs]
        # All but the two norms' scale and bias.
        assert differs.count(False) == (0 if name == "queue" else 4)


def test_a_model_with_an_axis_name_initialises_without_it(small_config):
    def shapes(axis_name):
        model = build_model(small_config, axis_name)
        return jax.eval_shape(lambda: state_module.init_variables(model, jax.random.key(3)))

    assert shapes("data") == shapes(None)


def test_weight_decay_reaches_every_parameter():
    state = initial()[0]
    optimizer = build_optimizer(default_config().optimizer, 10)
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    updates, _ = jax.jit(optimizer.update)(zeros, optimizer.init(state.params), state.params)
    # Prompts, norms and biases included: lr · decay of each entry, to float32 rounding.
    jax.tree.map(
        lambda u, p: np.testing.assert_allclose(u, -0.02 * 1e-4 * p, rtol=1e-5, atol=1e-12),
        updates,
        state.params,
    )
    assert "prompts" in state.params
