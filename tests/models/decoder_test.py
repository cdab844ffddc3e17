"""The decoder against the restatement, in both placements of its prompt."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pcm3_jax.models.decoder import Decoder
from tests import restatement

INPUTS, HIDDEN = 6, 5
# Float32 rounding after a normalisation, two GRU layers and a product.
TOLERANCE = 1e-5

PROMPT = np.random.default_rng(2).normal(size=INPUTS).astype(np.float32)
# (T, P, N, 2H); the second pass has another mean and spread.
FEATURES = np.random.default_rng(1).normal(size=(4, 2, 3, INPUTS)).astype(np.float32)
FEATURES[:, 1] = 2 * FEATURES[:, 1] + 1


def make(placement):
    decoder = Decoder(INPUTS, HIDDEN, 2, placement, jnp.float32, None, False)
    shapes = jax.eval_shape(decoder.init, jax.random.key(0), jnp.asarray(FEATURES[:, 0]))
    rng = np.random.default_rng(0)
    return decoder, jax.tree.map(lambda p: jnp.float32(rng.uniform(-1, 1, p.shape)), shapes)


def forward_train(decoder):
    return jax.jit(functools.partial(decoder.apply, method=Decoder.forward_train))


def torch_state(variables):
    """The decoder's parameters by PyTorch name."""
    params = jax.device_get(variables["params"])
    state = {"linear.1.weight": params["norm"]["scale"], "linear.1.bias": params["norm"]["bias"]}
    for ours, theirs in (
        ("reduce", "linear.0"),
        ("mix", "linear.3"),
        ("reconstruct", "recons_decoder.reconstruction"),
    ):
        state[f"{theirs}.weight"] = params[ours]["kernel"].T
        state[f"{theirs}.bias"] = params[ours]["bias"]
    for i in range(2):
        layer = params["gru"][f"layer_{i}"]
        prefix = "recons_decoder.decoder"
        state[f"{prefix}.weight_ih_l{i}"] = layer["input_kernel"][0].T
        state[f"{prefix}.weight_hh_l{i}"] = layer["recurrent_kernel"][0].T
        state[f"{prefix}.bias_ih_l{i}"] = layer["input_bias"][0]
        state[f"{prefix}.bias_hh_l{i}"] = layer["recurrent_bias"][0]
    return state


def test_each_pass_is_normalised_by_its_own_batch():
    decoder, variables = make("before_norm")
    frames, moments = forward_train(decoder)(variables, FEATURES, PROMPT)
    assert frames.shape == (2, 3, 4, 150)
    state = torch_state(variables)
    for i in range(2):
        features = np.moveaxis(FEATURES[:, i], 0, 1)
        expected = restatement.flatten_frames(restatement.decode(state, features + PROMPT))
        np.testing.assert_allclose(frames[i], expected, rtol=0, atol=TOLERANCE)
        reduced = restatement.linear(
            features + PROMPT, state["linear.0.weight"], state["linear.0.bias"]
        )
        mean = reduced.mean((0, 1))
        np.testing.assert_allclose(moments.mean[i], mean, rtol=0, atol=TOLERANCE)


def test_batch_norm_cancels_a_prompt_before_it():
    decoder, variables = make("before_norm")
    with_prompt, _ = forward_train(decoder)(variables, FEATURES, PROMPT)
    without, _ = forward_train(decoder)(variables, FEATURES, None)
    np.testing.assert_allclose(with_prompt, without, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("placement", ["before_norm", "after_norm"])
def test_decodes_as_the_restatement_without_a_prompt(placement):
    decoder, variables = make(placement)
    frames, _ = forward_train(decoder)(variables, FEATURES, None)
    features = np.moveaxis(FEATURES[:, 0], 0, 1)
    expected = restatement.decode(torch_state(variables), features)
    np.testing.assert_allclose(
        frames[0], restatement.flatten_frames(expected), rtol=0, atol=TOLERANCE
    )


def test_a_prompt_after_the_norm_adds_its_image_under_the_first_layer():
    decoder, variables = make("after_norm")
    frames, moments = forward_train(decoder)(variables, FEATURES, PROMPT)
    # Equivalent: the image of the prompt, without the layer's own bias, added to BatchNorm's bias.
    image = PROMPT @ variables["params"]["reduce"]["kernel"]
    moved = torch_state(variables)
    moved["linear.1.bias"] = moved["linear.1.bias"] + np.asarray(image)
    features = np.moveaxis(FEATURES[:, 0], 0, 1)
    expected = restatement.flatten_frames(restatement.decode(moved, features))
    np.testing.assert_allclose(frames[0], expected, rtol=0, atol=TOLERANCE)
    plain = restatement.flatten_frames(restatement.decode(torch_state(variables), features))
    assert np.abs(expected - plain).max() > 0.1
    # It does not enter the running statistics.
    _, without = forward_train(decoder)(variables, FEATURES, None)
    np.testing.assert_allclose(moments.mean, without.mean, rtol=0, atol=TOLERANCE)
