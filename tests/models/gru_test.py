"""The scanned GRU against the restatement, Flax's cell, and autodiff of a plain scan."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import jaxprs_in_params
from jax.test_util import check_grads

from pcm3_jax.models.gru import GRU
from tests import restatement

# Float32 rounding of states in (-1, 1) over a few frames and layers; measured 3e-7.
STATE_TOLERANCE = 5e-6
# Relative to a gradient's largest entry: the two sum over frames in different orders.
GRADIENT_TOLERANCE = 1e-5

small = st.integers(1, 5)


def random_case(seed, frames, rows, features, **settings):
    """A GRU, its parameters from U(±1/√H), and inputs (T, N, F)."""
    gru = GRU(**settings)
    rng = np.random.default_rng(seed)
    inputs = jnp.asarray(rng.normal(size=(frames, rows, features)), jnp.float32)
    shapes = jax.eval_shape(gru.init, jax.random.key(0), inputs)
    bound = gru.hidden**-0.5
    draw = lambda p: jnp.asarray(rng.uniform(-bound, bound, p.shape), p.dtype)  # noqa: E731
    return gru, jax.tree.map(draw, shapes), inputs


def torch_layers(params) -> list[dict[str, np.ndarray]]:
    """Parameters by the restatement's names."""
    layers = []
    for i in range(len(params["params"])):
        ours = jax.device_get(params["params"][f"layer_{i}"])
        layer = {}
        for direction, suffix in zip(
            range(len(ours["input_bias"])), ("", "_reverse"), strict=False
        ):
            layer["weight_ih" + suffix] = ours["input_kernel"][direction].T
            layer["weight_hh" + suffix] = ours["recurrent_kernel"][direction].T
            layer["bias_ih" + suffix] = ours["input_bias"][direction]
            layer["bias_hh" + suffix] = ours["recurrent_bias"][direction]
        layers.append(layer)
    return layers


def batch_major(x) -> np.ndarray:
    return np.moveaxis(np.asarray(x), 0, 1)


@settings(max_examples=12)
@given(frames=small, rows=small, features=small, hidden=small, layers=st.integers(1, 3), seed=small)
def test_causal_runs_both_directions_forward(frames, rows, features, hidden, layers, seed):
    gru, params, x = random_case(
        seed, frames, rows, features, hidden=hidden, layers=layers, directions=2
    )
    expected = restatement.bigru_causal(batch_major(x), torch_layers(params))
    states = jax.jit(gru.apply)(params, x)
    np.testing.assert_allclose(batch_major(states), expected, rtol=0, atol=STATE_TOLERANCE)


@settings(max_examples=12)
@given(frames=small, rows=small, features=small, hidden=small, layers=st.integers(1, 3), seed=small)
def test_bidirectional_runs_one_direction_backward(frames, rows, features, hidden, layers, seed):
    gru, params, x = random_case(
        seed, frames, rows, features,
        hidden=hidden, layers=layers, directions=2, recurrence="bidirectional",
    )  # fmt: skip
    expected, _ = restatement.bigru_bidirectional(batch_major(x), torch_layers(params))
    states = jax.jit(gru.apply)(params, x)
    np.testing.assert_allclose(batch_major(states), expected, rtol=0, atol=STATE_TOLERANCE)


@settings(max_examples=12)
@given(frames=small, rows=small, features=small, hidden=small, layers=st.integers(1, 3), seed=small)
def test_one_direction(frames, rows, features, hidden, layers, seed):
    gru, params, x = random_case(seed, frames, rows, features, hidden=hidden, layers=layers)
    expected = restatement.gru_unidirectional(batch_major(x), torch_layers(params))
    states = jax.jit(gru.apply)(params, x)
    np.testing.assert_allclose(batch_major(states), expected, rtol=0, atol=STATE_TOLERANCE)


def test_long_sequences_stay_accurate():
    gru, params, x = random_case(0, 64, 2, 6, hidden=8, layers=3, directions=2)
    # Four times the usual weights, so that gates saturate and errors could grow.
    params = jax.tree.map(lambda p: 4 * p, params)
    expected = restatement.bigru_causal(batch_major(x), torch_layers(params))
    states = jax.jit(gru.apply)(params, x)
    np.testing.assert_allclose(batch_major(states), expected, rtol=0, atol=2e-5)


def test_cell_matches_flax():
    gru, params, x = random_case(1, 6, 3, 4, hidden=5, layers=1)
    ours = jax.tree.map(lambda p: p[0], params["params"]["layer_0"])
    gates = "rzn"
    split = {name: np.split(np.asarray(p), 3, axis=-1) for name, p in ours.items()}
    flax_params = {}
    for i, gate in enumerate(gates):
        bias = split["input_bias"][i]
        # Flax has one bias where PyTorch adds two, except inside the reset gate's product.
        flax_params["i" + gate] = {
            "kernel": split["input_kernel"][i],
            "bias": bias if gate == "n" else bias + split["recurrent_bias"][i],
        }
        flax_params["h" + gate] = {"kernel": split["recurrent_kernel"][i]}
    flax_params["hn"]["bias"] = split["recurrent_bias"][2]
    cell = nn.GRUCell(features=5)
    h = jnp.zeros((3, 5))
    states = jax.jit(gru.apply)(params, x)
    for t in range(6):
        h, _ = cell.apply({"params": flax_params}, h, x[t])
        np.testing.assert_allclose(states[t], h, rtol=0, atol=STATE_TOLERANCE)


def plain_gru(params, x, recurrence):
    """The same network as a plain scan, differentiated by JAX."""
    for i in range(len(params["params"])):
        p = params["params"][f"layer_{i}"]
        outputs = []
        for d in range(p["input_bias"].shape[0]):

            def step(h, x_t, p=p, d=d):
                x_r, x_z, x_n = jnp.split(x_t @ p["input_kernel"][d] + p["input_bias"][d], 3, -1)
                h_r, h_z, h_n = jnp.split(
                    h @ p["recurrent_kernel"][d] + p["recurrent_bias"][d], 3, -1
                )
                z = jax.nn.sigmoid(x_z + h_z)
                h = (1 - z) * jnp.tanh(x_n + jax.nn.sigmoid(x_r + h_r) * h_n) + z * h
                return h, h

            start = jnp.zeros((x.shape[1], p["recurrent_kernel"].shape[1]))
            reverse = recurrence == "bidirectional" and d == 1
            outputs.append(jax.lax.scan(step, start, x, reverse=reverse)[1])
        x = jnp.concatenate(outputs, -1)
    return x


# With 25 channels and three rows the scan's products are transposed (`_frame_product`).
@pytest.mark.parametrize("hidden", [5, 25])
@pytest.mark.parametrize(
    ("directions", "recurrence"), [(1, "causal"), (2, "causal"), (2, "bidirectional")]
)
def test_gradients_match_autodiff_of_a_plain_scan(directions, recurrence, hidden):
    gru, params, x = random_case(
        2, 9, 3, 4, hidden=hidden, layers=2, directions=directions, recurrence=recurrence
    )
    transposed = "optimization_barrier" in str(jax.make_jaxpr(gru.apply)(params, x))
    assert transposed == (hidden == 25)
    weights = jax.random.normal(jax.random.key(3), (9, 3, hidden * directions))

    def ours(params, x):
        return (gru.apply(params, x) * weights).sum()

    def plain(params, x):
        return (plain_gru(params, x, recurrence) * weights).sum()

    got = jax.jit(jax.value_and_grad(ours, (0, 1)))(params, x)
    expected = jax.jit(jax.value_and_grad(plain, (0, 1)))(params, x)
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-5, atol=1e-5)
    got, expected = got[1], expected[1]
    # params and x: four tensors a layer, two layers, and the input.
    assert len(jax.tree.leaves(got)) == 9

    def compare(g, e):
        largest = np.abs(e).max()
        assert largest > 1e-2
        np.testing.assert_allclose(g, e, rtol=0, atol=GRADIENT_TOLERANCE * largest)

    jax.tree.map(compare, got, expected)


@pytest.mark.parametrize("recurrence", ["causal", "bidirectional"])
def test_directions_in_one_scan_match_separate_scans(recurrence, monkeypatch):
    gru, params, x = random_case(
        8, 9, 3, 4, hidden=5, layers=2, directions=2, recurrence=recurrence
    )

    def results():
        return jax.value_and_grad(lambda p: (gru.apply(p, x) ** 2).sum())(params)

    apart = results()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    text = str(jax.make_jaxpr(gru.apply)(params, x))
    together = results()
    # One scan per layer: this is the accelerators' code path.
    assert text.count("scan[") == 2
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), apart, together
    )


def test_gradients_match_finite_differences():
    gru, params, x = random_case(4, 4, 2, 3, hidden=3, layers=2, directions=2)
    # Float32 differences over 3e-3: rounding 1e-4 relative to values near 1, and the third
    # derivative times 1e-5.
    check_grads(
        jax.jit(gru.apply), (params, x), order=1, modes=["rev"], eps=3e-3, atol=2e-3, rtol=2e-3
    )


def scan_results(jaxpr) -> list[int]:
    """Sizes of what the scans of a jaxpr carry, or emit in each iteration."""
    sizes = []
    for equation in jaxpr.eqns:
        assert equation.primitive.name != "while"
        for sub in jaxprs_in_params(equation.params):
            if equation.primitive.name == "scan":
                # The results of a scan's body are one iteration's.
                sizes += [out.aval.size for out in sub.outvars]
            sizes += scan_results(sub)
    return sizes


def test_backward_pass_updates_no_weight_gradient_each_frame():
    # With a single row only a weight's gradient can be as large as the weight.
    gru, params, x = random_case(5, 7, 1, 6, hidden=12, layers=2, directions=2)
    recurrent_weight = params["params"]["layer_0"]["recurrent_kernel"].size // 2

    def sizes(apply):
        jaxpr = jax.make_jaxpr(jax.grad(lambda p: (apply(p, x) ** 2).sum()))(params)
        return scan_results(jaxpr.jaxpr)

    ours = sizes(gru.apply)
    assert len(ours) > 0
    assert max(ours) < recurrent_weight
    # The check does detect it in JAX's own gradient of the scan.
    plain = sizes(lambda p, x: plain_gru(p, x, "causal"))
    assert max(plain) >= recurrent_weight


def test_bfloat16_is_close_and_keeps_parameters_in_float32():
    gru, params, x = random_case(6, 16, 4, 6, hidden=16, layers=3, directions=2)
    half = GRU(hidden=16, layers=3, directions=2, dtype=jnp.bfloat16)
    initial = jax.eval_shape(half.init, jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(initial)} == {jnp.dtype("float32")}
    states, expected = jax.jit(half.apply)(params, x), jax.jit(gru.apply)(params, x)
    assert states.dtype == jnp.bfloat16
    # States within (-1, 1) from products rounded to 2^-8 relative, three layers deep; the
    # recurrence forgets, so the error does not grow with time.
    np.testing.assert_allclose(np.asarray(states, np.float32), expected, rtol=0, atol=0.03)

    def loss(apply):
        return lambda params: (apply(params, x).astype(jnp.float32) ** 2).sum()

    got = jax.jit(jax.grad(loss(half.apply)))(params)
    exact = jax.jit(jax.grad(loss(gru.apply)))(params)

    def compare(g, e):
        assert g.dtype == jnp.float32
        # Relative to each tensor's norm: about 2^-8 per product, through 16 frames.
        assert np.linalg.norm(g - e) < 0.05 * np.linalg.norm(e)

    jax.tree.map(compare, got, exact)


@pytest.mark.parametrize("recurrence", ["causal", "bidirectional"])
def test_only_the_causal_recurrence_ignores_later_frames(recurrence):
    gru, params, x = random_case(
        7, 10, 2, 4, hidden=5, layers=3, directions=2, recurrence=recurrence
    )
    apply = jax.jit(gru.apply)
    whole = apply(params, x)
    for length in (1, 4, 9):
        prefix = apply(params, x[:length])
        error = np.abs(prefix - whole[:length]).max()
        if recurrence == "causal":
            # The same operations on the same numbers, but perhaps compiled differently.
            assert error < 1e-6
        else:
            assert error > 1e-2


@pytest.mark.parametrize("recurrence", ["causal", "bidirectional"])
@pytest.mark.parametrize("frames", [7, 24])
def test_remat_gives_the_same_gradients(monkeypatch, frames, recurrence):
    """With one part and with several, in the array layouts of CPU and of accelerators."""
    sizes = {"hidden": 8, "layers": 2, "directions": 2, "recurrence": recurrence}
    keeping, params, inputs = random_case(0, frames=frames, rows=4, features=6, **sizes)

    def gradients(gru):
        loss = lambda p, x: jnp.sum(jnp.sin(gru.apply(p, x)))  # noqa: E731
        return jax.jit(jax.value_and_grad(loss, (0, 1)))(params, inputs)

    expected = gradients(keeping)
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda name=backend: name)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(
                a, b, rtol=0, atol=GRADIENT_TOLERANCE * np.abs(b).max()
            ),
            gradients(keeping.clone(remat=True)),
            expected,
        )


def test_remat_needs_less_memory():
    gru, params, inputs = random_case(
        0, frames=128, rows=4, features=8, hidden=16, layers=4, directions=2
    )

    def gradient(params, gru):
        return jax.grad(lambda p: jnp.sum(gru.apply(p, inputs) ** 2))(params)

    kept, again = (
        jax.jit(functools.partial(gradient, gru=gru.clone(remat=remat)))
        .lower(params)
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
        for remat in (False, True)
    )
    print(f"{kept} bytes with gates stored, {again} with remat")
    assert again < 0.5 * kept
