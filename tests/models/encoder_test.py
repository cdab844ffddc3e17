"""The encoder and the projector against the restatement."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pcm3_jax.models.encoder import Encoder, Projector, Readout, unit_length
from tests import restatement

HIDDEN = 4
# Float32 rounding of states in (-1, 1) after a normalisation and two layers.
TOLERANCE = 5e-6


def make(placement="before_norm", recurrence="causal"):
    """An encoder and random variables, none of which has its initial value."""
    encoder = Encoder(HIDDEN, 2, recurrence, placement, jnp.float32, None, False)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), jnp.zeros((2, 3, 150)))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda p: jnp.float32(rng.uniform(-0.5, 0.5, p.shape)), shapes)
    stats = variables["batch_stats"]["input_norm"]
    stats["variance"] = jnp.float32(rng.uniform(0.5, 2, 150))
    return encoder, variables


def forward_train(encoder):
    return jax.jit(functools.partial(encoder.apply, method=Encoder.forward_train))


def frames(passes=3, rows=2, length=6) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(passes, rows, length, 150)).astype(np.float32)


PROMPTS = np.random.default_rng(2).normal(size=(3, 150)).astype(np.float32)


def layers(variables):
    ours = jax.device_get(variables["params"]["gru"])
    return [
        {
            theirs + suffix: layer[name][d].T
            for d, suffix in enumerate(("", "_reverse"))
            for name, theirs in (
                ("input_kernel", "weight_ih"),
                ("recurrent_kernel", "weight_hh"),
                ("input_bias", "bias_ih"),
                ("recurrent_bias", "bias_hh"),
            )
        }
        for layer in (ours["layer_0"], ours["layer_1"])
    ]


def normalised(variables, x):
    norm = variables["params"]["input_norm"]
    return restatement.batch_norm(x, np.asarray(norm["scale"]), np.asarray(norm["bias"]))[0]


@pytest.mark.parametrize("placement", ["before_norm", "after_norm"])
def test_each_pass_has_its_own_prompt_and_statistics(placement):
    encoder, variables = make(placement)
    x = frames()
    features, moments = forward_train(encoder)(variables, x, PROMPTS)
    assert features.shape == (6, 3, 2, 2 * HIDDEN)
    for i in range(3):
        if placement == "before_norm":
            inputs = normalised(variables, x[i] + PROMPTS[i])
            mean = (x[i] + PROMPTS[i]).mean((0, 1))
        else:
            inputs = normalised(variables, x[i]) + PROMPTS[i]
            mean = x[i].mean((0, 1))
        expected = restatement.bigru_causal(inputs, layers(variables))
        np.testing.assert_allclose(
            np.moveaxis(features[:, i], 0, 1), expected, rtol=0, atol=TOLERANCE
        )
        np.testing.assert_allclose(moments.mean[i], mean, rtol=0, atol=TOLERANCE)


def test_batch_norm_cancels_a_prompt_before_it_and_not_one_after():
    for placement, acts in (("before_norm", False), ("after_norm", True)):
        encoder, variables = make(placement)
        apply = forward_train(encoder)
        with_prompts, _ = apply(variables, frames(), PROMPTS)
        without, _ = apply(variables, frames(), None)
        change = np.abs(with_prompts - without).max()
        assert (change > 0.1) if acts else (change < TOLERANCE)


def test_inference_uses_the_running_statistics():
    encoder, variables = make()
    x = frames()[0]
    encode = jax.jit(encoder.apply)
    features = encode(variables, x)
    stats, norm = variables["batch_stats"]["input_norm"], variables["params"]["input_norm"]
    inputs = (x - stats["mean"]) / np.sqrt(stats["variance"] + 1e-5) * norm["scale"] + norm["bias"]
    expected = restatement.bigru_causal(np.asarray(inputs), layers(variables))
    np.testing.assert_allclose(np.moveaxis(features, 0, 1), expected, rtol=0, atol=TOLERANCE)
    # A sequence's features do not depend on the rest of the batch.
    alone = encode(variables, x[:1])
    np.testing.assert_allclose(alone, features[:, :1], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("recurrence", ["causal", "bidirectional"])
def test_sequence_feature_covers_every_frame(recurrence):
    encoder, variables = make(recurrence=recurrence)
    x = frames(passes=1)
    features, _ = forward_train(encoder)(variables, x, None)
    feature = encoder.apply(variables, features, method=Encoder.sequence_feature)
    inputs = normalised(variables, x[0])
    if recurrence == "causal":
        expected = restatement.bigru_causal(inputs, layers(variables))[:, -1]
    else:
        _, expected = restatement.bigru_bidirectional(inputs, layers(variables))
    np.testing.assert_allclose(feature[0], expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("length", [None, 3])
@pytest.mark.parametrize("chosen", [(), (2,), (2, 1)])
@pytest.mark.parametrize(
    "pooling", [("last",), ("mean",), ("max", "last"), ("last", "mean", "max")]
)
def test_features_are_read_out_of_layers_and_frames(pooling, chosen, length):
    encoder, variables = make(recurrence="causal")
    (x,) = frames(passes=1)
    feature = encoder.apply(variables, x, Readout(chosen, pooling), length, method=Encoder.read_out)
    parts, states = [], {}
    inputs = np.asarray(encoder.apply(variables, x, method=lambda m, x: m.input_norm(x)))
    for layer, parameters in enumerate(layers(variables), 1):
        inputs = states[layer] = restatement.bigru_causal(inputs, [parameters])
    for name in pooling:
        for layer in chosen or (encoder.layers,):
            counted = states[layer][:, :length]
            pools = {"last": counted[:, -1], "mean": counted.mean(1), "max": counted.max(1)}
            parts.append(pools[name])
    if len(parts) > 1:
        parts = [part / np.linalg.norm(part, axis=-1, keepdims=True) for part in parts]
    np.testing.assert_allclose(feature, np.concatenate(parts, axis=-1), rtol=0, atol=TOLERANCE)


def test_projector():
    rng = np.random.default_rng(3)
    projector, x = Projector(6, 4, jnp.float32), rng.normal(size=(5, 6)).astype(np.float32)
    shapes = jax.eval_shape(projector.init, jax.random.key(0), x)
    variables = jax.tree.map(lambda p: jnp.float32(rng.normal(size=p.shape)), shapes)
    inner, outer = variables["params"]["inner"], variables["params"]["outer"]
    state = {
        "e.fc.0.weight": inner["kernel"].T,
        "e.fc.0.bias": inner["bias"],
        "e.fc.2.weight": outer["kernel"].T,
        "e.fc.2.bias": outer["bias"],
    }
    z = projector.apply(variables, x)
    np.testing.assert_allclose(z, restatement.project(state, "e", x), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(np.linalg.norm(z, axis=-1), 1, rtol=0, atol=1e-6)


def test_bfloat16_projects_to_unit_vectors_in_float32():
    projector = Projector(6, 4, jnp.bfloat16)
    x = jnp.asarray(np.random.default_rng(4).normal(size=(5, 6)), jnp.float32)
    shapes = jax.eval_shape(projector.init, jax.random.key(0), x)
    variables = jax.tree.map(lambda p: jnp.full(p.shape, 0.5, p.dtype), shapes)
    z = projector.apply(variables, x)
    assert z.dtype == jnp.float32
    np.testing.assert_allclose(np.linalg.norm(z, axis=-1), 1, rtol=0, atol=1e-6)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_unit_length_keeps_a_zero_vector():
    x = unit_length(jnp.array([[3.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(x, [[0.6, 0.8], [0, 0]], rtol=0, atol=1e-7)


@pytest.mark.parametrize("placement", ["before_norm", "after_norm"])
def test_running_mean_keeps_the_prompt_where_coordinates_are_constant(placement):
    """What an absent person's zeros become in evaluation, which drops the prompts."""
    encoder, variables = make(placement)
    x = frames()
    x[..., 1::2] = 0  # every second feature belongs to the second person

    def train_step(module, stats):
        state = variables | {"batch_stats": stats}

        def train(m):
            _, moments = m.forward_train(x, PROMPTS)
            m.record(jax.tree.map(lambda moment: moment[:1], moments))

        return module.apply(state, method=train, mutable=["batch_stats"])[1]["batch_stats"]

    step = jax.jit(functools.partial(train_step, encoder))
    stats = variables["batch_stats"]
    for _ in range(200):
        stats = step(stats)
    norm = stats["input_norm"]
    left = np.abs(norm["mean"] / np.sqrt(norm["variance"] + 1e-5))[1::2]
    if placement == "before_norm":
        np.testing.assert_allclose(left, np.abs(PROMPTS[0, 1::2]) / 1e-5**0.5, rtol=1e-2)
    else:
        assert left.max() < 1e-2
