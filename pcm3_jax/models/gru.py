"""A scanned GRU with PyTorch's cell, one or two directions, and a hand-written backward pass.

Arrays are time-major, since the scan runs over time.  The input products of all frames are one
large matrix product before the scan; the scan only multiplies by the recurrent weights.  The
backward scan emits the cotangents of the gates, and the gradient of the recurrent weights is one
large product after it, instead of a rank-N update in every frame.
`pcm3_jax/benchmark/SPEED.md` has the measurements behind these choices.

Axes: D directions, T frames, N rows of a batch, F input features, H hidden units.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

Recurrence = Literal["causal", "bidirectional"]
Arrays = Sequence[jax.Array]
# Input kernel, input bias, recurrent weight and recurrent bias, as in `gru`.
Parameters = tuple[jax.Array, jax.Array, jax.Array, jax.Array]
# Arrays (D, N, H) of a frame, or of all frames, in the form of `_joined`.
Joined = jax.Array | tuple[jax.Array, ...]
# A state (D, N, H) by dtype name.
State = dict[str, jax.Array]
# Saved for the backward pass: inputs; states (with remat) or states and gates; parameters.
Residuals = tuple[Arrays, Any, Parameters]


def symmetric_uniform(bound: float) -> nn.initializers.Initializer:
    """An initialiser that draws from U(-bound, bound)."""

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def _product(
    equation: str, inputs: jax.Array, weights: jax.Array, dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """An einsum of operands in their own dtype, with a result in ``dtype``."""
    return jnp.einsum(equation, inputs, weights, preferred_element_type=dtype)


def _sum_of_outer_products(x: jax.Array, y: jax.Array) -> jax.Array:
    """A weight's gradient from all frames: (T, N, F) and (T, N, K) to (F, K), float32."""
    # Flattened because on CPU a product that contracts two axes first copies both operands.
    return _product("mf,mk->fk", x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]))


def _input_gates(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    """Input gates of every frame, without bias: (T, N, F) and (F, 3H) to (T, N, 3H)."""
    features, gates = kernel.shape
    if jax.default_backend() == "cpu" and features >= 1024:
        # On CPU a GEMM of this size is faster with a transposed left operand, transpose included;
        # the barrier stops XLA from undoing the transpose.
        transposed = lax.optimization_barrier(inputs.reshape(-1, features).T)
        x = _product("fm,fk->mk", transposed, kernel, kernel.dtype)
        return x.reshape(*inputs.shape[:-1], gates)
    return _product("tnf,fk->tnk", inputs, kernel, kernel.dtype)


def _frame_product(weight: jax.Array, count: int, back: bool) -> Callable[[jax.Array], jax.Array]:
    """The function that multiplies one frame's rows by a weight.

    On CPU a matrix product repacks its right operand in every call.  Where that is a large weight,
    the product is transposed: the weight is the left operand, and the few rows of a frame are
    repacked instead.  The barriers stop XLA from undoing the transposes.

    Args:
      weight: (D, K, M).
      count: N, rows of a frame.
      back: whether to multiply by the transposed weight.

    Returns:
      A function of rows (D, N, K) to (D, N, M), or with ``back`` of cotangents (D, N, M) to
      (D, N, K).
    """
    directions, *sizes = weight.shape
    # In an exported program the number of rows is symbolic.
    few = isinstance(count, int) and 8 * count < min(sizes)
    if jax.default_backend() != "cpu" or directions > 1 or not few:
        equation = "dnm,dkm->dnk" if back else "dnk,dkm->dnm"
        return lambda rows: _product(equation, rows, weight)
    left, barrier = weight[0] if back else weight[0].T, lax.optimization_barrier
    return lambda rows: barrier(_product("mk,kn->mn", left, barrier(rows[0].T))).T[None]


def _joined(*arrays: jax.Array) -> Joined:
    """Arrays (D, N, H) in the form that a scan emits: on accelerators concatenated (last axis).

    A scan that writes one array instead of several needs fewer kernel launches on a GPU and moves
    less memory on a TPU.  On CPU, elementwise loops over a concatenated array are slower.
    """
    return arrays if jax.default_backend() == "cpu" else jnp.concatenate(arrays, -1)


def _apart(arrays: Joined, count: int) -> Arrays:
    """The ``count`` arrays given to `_joined`, which may have gained leading axes."""
    return arrays if isinstance(arrays, tuple) else jnp.split(arrays, count, -1)


def _stacked(directions: Sequence[Any]) -> Any:
    """Stacks one frame's arrays of each direction along a new first axis."""
    return jax.tree.map(lambda *arrays: jnp.stack(arrays), *directions)


# With remat, the number of frames whose gates are recomputed together.  A larger number uses more
# memory and needs fewer additions of partial gradients.
PART_FRAMES = 16


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def gru(
    inputs: Arrays,
    kernel: jax.Array,
    input_bias: jax.Array,
    weight: jax.Array,
    bias: jax.Array,
    remat: bool,
) -> list[jax.Array]:
    """Runs D independent GRUs (PyTorch's cell, gates in the order reset, update, new) in one scan.

    The scan's products are batched over the directions.  The large products before and after it
    are separate for each direction, so that no large array is transposed.

    Args:
      inputs: D arrays (T, N, F), in the dtype of the matrix products.
      kernel, weight: input (D, F, 3H) and recurrent (D, H, 3H) weights, in the same dtype.
      input_bias, bias: input and recurrent biases (D, 3H), float32.
      remat: whether the backward pass recomputes the gates instead of storing them.  It then
        processes the sequence in parts of up to `PART_FRAMES` frames; the gates of a part are
        recomputed from its stored states by one large product.

    Returns:
      D arrays (T, N, H) of the state after each frame, from a zero state.  States, input gates and
      residuals have the dtype of ``weight``; the cell is computed in float32.
    """
    step, start, x = _recurrence(inputs, kernel, input_bias, weight, bias)

    def frame(state: State, x_t: list[Any]) -> tuple[State, jax.Array]:
        state, _ = step(state, x_t)
        return state, state[weight.dtype.name]

    states = lax.scan(frame, start, x)[1]
    return [states[:, d] for d in range(len(inputs))]


def _forward(
    inputs: Arrays,
    kernel: jax.Array,
    input_bias: jax.Array,
    weight: jax.Array,
    bias: jax.Array,
    remat: bool,
) -> tuple[list[jax.Array], Residuals]:
    parameters = kernel, input_bias, weight, bias
    if remat:
        states = gru(inputs, *parameters, remat)
        return states, (inputs, states, parameters)
    step, start, x = _recurrence(inputs, *parameters)
    dtype = weight.dtype.name

    def frame(state: State, x_t: list[Any]) -> tuple[State, Joined]:
        before = state[dtype]
        state, gates = step(state, x_t)
        return state, _joined(before, *(gate.astype(dtype) for gate in gates))

    end, kept = lax.scan(frame, start, x)
    before, last = _apart(kept, 5)[0], end[dtype]
    states = [jnp.concatenate([before[1:, d], last[None, d]]) for d in range(len(inputs))]
    return states, (inputs, kept, parameters)


def _recurrence(
    inputs: Arrays, kernel: jax.Array, input_bias: jax.Array, weight: jax.Array, bias: jax.Array
) -> tuple[Callable[[State, list[Any]], tuple[State, Arrays]], State, list[Any]]:
    """Arguments of the scan: step (state, input gates → state, gates), first state, input gates.

    The carried state is a dict from dtype name to the state in that dtype: float32 and the dtype of
    the products.  Converting it in the elementwise loop saves a kernel before the next product.
    """
    rows = inputs[0].shape[1]
    product = _frame_product(weight, rows, back=False)
    x_bias, h_bias = _thirds(input_bias[:, None]), _thirds(bias[:, None])

    def state_of(h: jax.Array) -> State:
        return {dtype: h.astype(dtype) for dtype in ("float32", weight.dtype.name)}

    def step(state: State, x_t: list[Any]) -> tuple[State, Arrays]:
        x, recurrent = _apart(_stacked(x_t), 3), _thirds(product(state[weight.dtype.name]))
        h, gates = _cell(x, recurrent, x_bias, h_bias, state["float32"])
        return state_of(h), gates

    x: list[Any] = [_input_gates(*direction) for direction in zip(inputs, kernel, strict=True)]
    if jax.default_backend() == "cpu":
        # Split before the scan: XLA does not vectorise loops over slices of a frame's gates.
        x = [tuple(_thirds(each)) for each in x]
    return step, state_of(jnp.zeros((len(inputs), rows, weight.shape[1]))), x


def _thirds(gates: jax.Array) -> list[jax.Array]:
    """Splits gates (…, 3H) into reset, update and new (…, H)."""
    return jnp.split(gates, 3, axis=-1)


def _cell(
    x: Arrays, recurrent: Arrays, input_bias: Arrays, bias: Arrays, h: jax.Array
) -> tuple[jax.Array, Arrays]:
    """The next state (…, H), and the values that its gradient needs.

    Args:
      x, recurrent: input and recurrent products, three arrays (…, H) each.
      input_bias, bias: their biases, likewise.
      h: the previous state (…, H).
    """
    x_r, x_z, x_n = map(jnp.add, x, input_bias)
    h_r, h_z, h_n = map(jnp.add, recurrent, bias)
    r = nn.sigmoid(x_r + h_r)
    z = nn.sigmoid(x_z + h_z)
    n = jnp.tanh(x_n + r * h_n)
    return n + z * (h - n), (r, z, n, h_n)


def _gates_again(
    inputs: Arrays,
    states: Arrays,
    kernel: jax.Array,
    input_bias: jax.Array,
    weight: jax.Array,
    bias: jax.Array,
) -> tuple[jax.Array, ...]:
    """Recomputes what `_forward` would store for frames with these inputs and prior states."""
    each = []
    for d, (x, h) in enumerate(zip(inputs, states, strict=True)):
        gates_x = _thirds(_input_gates(x, kernel[d]))
        recurrent = _thirds(_product("tnh,hk->tnk", h, weight[d]))
        _, gates = _cell(gates_x, recurrent, _thirds(input_bias[d]), _thirds(bias[d]), h)
        each.append((h, *gates))
    return tuple(jnp.stack(arrays, axis=1) for arrays in zip(*each, strict=True))


def _backward(
    remat: bool, saved: Residuals, d_states: Arrays
) -> tuple[list[jax.Array], *tuple[jax.Array, ...]]:
    inputs, kept, parameters = saved
    d_last = jnp.zeros((len(inputs), *d_states[0].shape[1:]))

    def add_part(carry: Any, part: Any) -> tuple[Any, list[jax.Array]]:
        (d_h, sums), (inputs, before, d_states) = carry, part
        kept = _gates_again(inputs, before, *parameters)
        d_h, d_inputs, gradients = _part_backward(parameters, d_h, inputs, kept, d_states)
        return (d_h, jax.tree.map(jnp.add, sums, gradients)), d_inputs

    if remat:
        before = [jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]]) for x in kept]
        length = len(before[0])
        frames = max(n for n in range(1, PART_FRAMES + 1) if length % n == 0)
        parts = jax.tree.map(
            lambda x: x.reshape(-1, frames, *x.shape[1:]), (inputs, before, d_states)
        )
        # Gradients are summed in float32, regardless of the dtype of the products.
        zeros = [jnp.zeros(p.shape, jnp.float32) for p in parameters]
        (_, gradients), d_inputs = lax.scan(add_part, (d_last, zeros), parts, reverse=True)
        d_inputs = [x.reshape(length, *x.shape[2:]) for x in d_inputs]
    else:
        _, d_inputs, gradients = _part_backward(parameters, d_last, inputs, kept, d_states)
    return d_inputs, *(g.astype(p.dtype) for g, p in zip(gradients, parameters, strict=True))


def _part_backward(
    parameters: Parameters, d_last: jax.Array, inputs: Arrays, kept: Joined, d_states: Arrays
) -> tuple[jax.Array, list[jax.Array], list[jax.Array]]:
    """The backward pass through a part of the sequence.

    Args:
      parameters: as in `gru`.
      d_last: cotangent of the part's last state from the frames after it (D, N, H).
      inputs: those of the part, as in `gru`.
      kept: the state before each frame and the gates of `_cell`, (T, D, N, H) each or joined.
      d_states: cotangents of the states, D arrays (T, N, H).

    Returns:
      Cotangents of the state before the part, of its inputs, and of the parameters in float32.
    """
    kernel, _, weight, _ = parameters
    product = _frame_product(weight, d_last.shape[1], back=True)

    def step(d_h: jax.Array, frame: tuple[jax.Array, Joined]) -> tuple[jax.Array, Joined]:
        d_state, h, r, z, n, h_n = (x.astype(jnp.float32) for x in (frame[0], *_apart(frame[1], 5)))
        d_h = d_h + d_state
        d_new = d_h * (1 - z) * (1 - n * n)
        d_update = d_h * (h - n) * z * (1 - z)
        d_reset = d_new * h_n * r * (1 - r)
        d_product = d_new * r
        d_recurrent = jnp.concatenate([d_reset, d_update, d_product], -1)
        d_h = d_h * z + product(d_recurrent.astype(weight.dtype))
        cotangents = d_reset, d_update, d_new, d_product
        return d_h, _joined(*(d.astype(weight.dtype) for d in cotangents))

    frames = jnp.stack(d_states, axis=1), kept
    d_first, joined = lax.scan(step, d_last, frames, reverse=True)
    before, emitted = _apart(kept, 5)[0], _apart(joined, 4)

    def of_either(arrays: Arrays) -> Iterator[jax.Array]:
        """Cotangents of the input and of the recurrent product, from those of the gates."""
        *common, new, product = arrays
        return (jnp.concatenate([*common, last], -1) for last in (new, product))

    d_input_bias, d_bias = of_either([x.sum((0, 2), dtype=jnp.float32) for x in emitted])
    d_inputs, d_kernel, d_weight = [], [], []
    for d, x in enumerate(inputs):
        d_x, d_recurrent = of_either([array[:, d] for array in emitted])
        # Written by hand, because JAX's transpose rule would transpose the larger operand (the
        # gates) and then transpose the result back.
        d_inputs.append(_product("tnk,fk->tnf", d_x, kernel[d], x.dtype))
        d_kernel.append(_sum_of_outer_products(x, d_x))
        d_weight.append(_sum_of_outer_products(before[:, d], d_recurrent))
    return d_first, d_inputs, [jnp.stack(d_kernel), d_input_bias, jnp.stack(d_weight), d_bias]


gru.defvjp(_forward, _backward)


class GRULayer(nn.Module):
    """One layer of one or two independent GRUs, their states concatenated.

    Attributes:
      hidden: H, units of a direction.
      directions: 1 or 2.
      recurrence: "causal" runs both directions forward in time, as the authors' program does by
        feeding a bidirectional GRU one frame at a time.  "bidirectional" runs the second direction
        backward in time.
      kernel_init: initialiser of each direction's input and recurrent kernels.
      dtype: of the matrix products and of the states.
      remat: recompute gates in the backward pass: less memory, more time.
    """

    hidden: int
    directions: int
    recurrence: Recurrence
    kernel_init: nn.initializers.Initializer
    dtype: jnp.dtype
    remat: bool

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """(T, N, F) inputs to (T, N, D * H) states, directions concatenated."""
        features = inputs.shape[-1]
        shape = (self.directions, 3 * self.hidden)
        bias_init = symmetric_uniform(self.hidden**-0.5)

        # Drawn per direction, so that fan-in and fan-out are those of a single GRU.
        def per_direction(key: jax.Array, rows: int) -> jax.Array:
            keys = jax.random.split(key, self.directions)
            return jnp.stack([self.kernel_init(k, (rows, 3 * self.hidden)) for k in keys])

        input_kernel = self.param("input_kernel", per_direction, features)
        input_bias = self.param("input_bias", bias_init, shape)
        recurrent_kernel = self.param("recurrent_kernel", per_direction, self.hidden)
        recurrent_bias = self.param("recurrent_bias", bias_init, shape)

        parameters = (
            input_kernel.astype(self.dtype),
            input_bias,
            recurrent_kernel.astype(self.dtype),
            recurrent_bias,
        )
        inputs = inputs.astype(self.dtype)

        backward = self.recurrence == "bidirectional" and self.directions == 2
        each = [inputs, inputs[::-1]] if backward else [inputs] * self.directions
        if jax.default_backend() == "cpu":
            # One direction after the other, so that only one recurrent matrix occupies the cache.
            apart = [[p[d : d + 1] for p in parameters] for d in range(self.directions)]
            states = [gru([x], *p, self.remat)[0] for x, p in zip(each, apart, strict=True)]
        else:
            # Both directions in one scan, for half as many kernel launches.
            states = gru(each, *parameters, self.remat)
        if backward:
            states[1] = states[1][::-1]
        return jnp.concatenate(states, axis=-1)


class GRU(nn.Module):
    """Stacked `GRULayer`s, without dropout.

    Attributes as in `GRULayer`; without ``kernel_init`` kernels have PyTorch's default
    initialisation, U(±1/√H).

    Example:
      gru = GRU(hidden=64, layers=2, directions=2)
      variables = gru.init(jax.random.key(0), inputs)  # inputs (T, N, F)
      states = gru.apply(variables, inputs)  # (T, N, 128)
    """

    hidden: int
    layers: int
    directions: int = 1
    recurrence: Recurrence = "causal"
    kernel_init: nn.initializers.Initializer | None = None
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, inputs: jax.Array, layers: Sequence[int] = ()) -> jax.Array:
        """Inputs (T, N, F) to the last layer's states (T, N, D * H).

        With ``layers``, numbers from 1, to the states of these layers (T, N, len(layers), D * H).
        """
        states = []
        for layer in range(self.layers):
            inputs = GRULayer(
                hidden=self.hidden,
                directions=self.directions,
                recurrence=self.recurrence,
                kernel_init=self.kernel_init or symmetric_uniform(self.hidden**-0.5),
                dtype=self.dtype,
                remat=self.remat,
                name=f"layer_{layer}",
            )(inputs)
            states.append(inputs)
        return jnp.stack([states[layer - 1] for layer in layers], axis=-2) if layers else inputs
