"""The motion predictor against loops in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pcm3_jax.models.encoder import Encoder
from pcm3_jax.models.heads import MotionPredictor
from tests import restatement

HIDDEN = 4  # of the encoder, in each direction
FUTURE = 3
# Float32 rounding of poses of a few units after a few frames.
TOLERANCE = 5e-6


def poses(frames, rows=2, seed=0) -> np.ndarray:
    made = np.random.default_rng(seed).normal(size=(rows, frames, 2, 25, 3))
    return made.astype(np.float32)


OBSERVED = poses(5)


def make(hidden, recurrence="causal"):
    encoder = Encoder(HIDDEN, 1, recurrence, "before_norm", jnp.float32, None, False)
    return MotionPredictor(encoder, hidden)


def init(hidden, recurrence="causal"):
    """Makes variables, for `eval_shape` or to be compiled."""
    call = make(hidden, recurrence).init
    return lambda key: call(key, OBSERVED, OBSERVED[:, -1], future_frames=FUTURE, train=False)


def shapes(hidden, recurrence="causal"):
    return jax.eval_shape(init(hidden, recurrence), jax.random.key(0))


def moved(hidden, recurrence="causal"):
    """Variables with nothing at its starting value."""
    rng = np.random.default_rng(1)
    draw = lambda p: jnp.float32(rng.uniform(-0.5, 0.5, p.shape))  # noqa: E731
    variables = jax.tree.map(draw, shapes(hidden, recurrence))
    stats = variables["batch_stats"]["encoder"]["input_norm"]
    stats["variance"] = jnp.float32(rng.uniform(0.5, 2, 150))
    return variables


def predict(hidden, variables, observed=OBSERVED, recurrence="causal"):
    apply = functools.partial(make(hidden, recurrence).apply, future_frames=FUTURE, train=False)
    return jax.jit(apply)(variables, observed, observed[:, -1])


def test_untrained_model_stands_still():
    prediction = predict(6, jax.jit(init(6))(jax.random.key(0)))
    assert prediction.shape == (2, FUTURE, 2, 25, 3)
    assert prediction.dtype == jnp.float32
    np.testing.assert_array_equal(prediction, np.repeat(OBSERVED[:, -1:], FUTURE, axis=1))


def test_a_linear_layer_only_where_sizes_differ():
    assert "bridge" in shapes(6)["params"]
    assert "bridge" not in shapes(2 * HIDDEN)["params"]


@pytest.mark.parametrize(
    ("hidden", "recurrence"),
    [(2 * HIDDEN, "causal"), (6, "causal"), (2 * HIDDEN, "bidirectional")],
)
def test_the_decoder_reads_its_own_predictions(hidden, recurrence):
    variables = moved(hidden, recurrence)
    encoder = make(hidden, recurrence).encoder
    of_encoder = {collection: tree["encoder"] for collection, tree in variables.items()}
    flat = restatement.flatten_frames(OBSERVED)
    features = jax.jit(encoder.apply)(of_encoder, flat)
    state = np.asarray(encoder.sequence_feature(features))
    params = jax.device_get(variables["params"])
    if "bridge" in params:
        state = restatement.linear(state, params["bridge"]["kernel"].T, params["bridge"]["bias"])
    gru, velocity = params["decoder"]["gru"], params["decoder"]["velocity"]
    layer = {
        "weight_ih": np.concatenate([gru[f"i{gate}"]["kernel"].T for gate in "rzn"]),
        "weight_hh": np.concatenate([gru[f"h{gate}"]["kernel"].T for gate in "rzn"]),
        "bias_ih": np.concatenate([gru[f"i{gate}"]["bias"] for gate in "rzn"]),
        # Flax has one bias for each of the first two gates, equivalent to the sum of PyTorch's two.
        "bias_hh": np.concatenate([np.zeros(2 * hidden), gru["hn"]["bias"]]),
    }
    pose, expected = flat[:, -1].astype(np.float64), []
    for _ in range(FUTURE):
        state = restatement.gru_cell(pose, state, layer)
        pose = pose + restatement.linear(state, velocity["kernel"].T, velocity["bias"])
        expected.append(pose)
    prediction = predict(hidden, variables, recurrence=recurrence)
    expected = restatement.unflatten_frames(np.stack(expected, 1))
    np.testing.assert_allclose(prediction, expected, rtol=0, atol=TOLERANCE)


def gradient(model, variables):
    """The gradient of a loss in training, and the next running statistics."""

    def loss(params):
        prediction, updates = model.apply(
            {**variables, "params": params},
            OBSERVED,
            OBSERVED[:, -1],
            FUTURE,
            True,
            mutable="batch_stats",
        )
        return jnp.square(prediction - poses(FUTURE, seed=2)).mean(), updates["batch_stats"]

    return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])


def test_training_uses_and_moves_batch_statistics_and_reaches_the_encoder():
    variables = moved(6)
    gradients, stats = gradient(make(6), variables)
    smallest = jax.tree.map(lambda g: float(jnp.abs(g).max()), gradients)
    assert min(jax.tree.leaves(smallest)) > 1e-6
    mean = variables["batch_stats"]["encoder"]["input_norm"]["mean"]
    expected = 0.9 * mean + 0.1 * restatement.flatten_frames(OBSERVED).mean((0, 1))
    np.testing.assert_allclose(
        stats["encoder"]["input_norm"]["mean"], expected, rtol=0, atol=TOLERANCE
    )


def test_training_does_not_reach_a_frozen_encoder():
    variables = moved(6)
    gradients, stats = gradient(make(6).clone(frozen=True), variables)
    largest = jax.tree.map(lambda g: float(jnp.abs(g).max()), gradients)
    assert max(jax.tree.leaves(largest.pop("encoder"))) == 0
    assert min(jax.tree.leaves(largest)) > 1e-6
    jax.tree.map(np.testing.assert_array_equal, stats, variables["batch_stats"])


def test_the_encoder_takes_pretrained_variables():
    """They have the names and shapes of the pretraining network's encoder."""
    encoder = make(6).encoder
    alone = jax.eval_shape(encoder.init, jax.random.key(0), jnp.zeros((2, 3, 150)))
    for collection in ("params", "batch_stats"):
        assert shapes(6)[collection]["encoder"] == alone[collection]
