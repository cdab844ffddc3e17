"""A scanned GRU with PyTorch's cell, one or two directions, and a hand-written backward pass.

Everything is time-major, because the scan walks over time.  The input products of all
frames are one large matrix product before the scan; the scan itself multiplies only the
recurrent weights.  The backward scan emits the gates' cotangents, and the recurrent weight's
gradient is again one large product after it, instead of one rank-N update a frame.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Recurrence = Literal["causal", "bidirectional"]


def symmetric_uniform(bound: float) -> nn.initializers.Initializer:
    """U(-bound, bound)."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def _product(equation: str, inputs: jax.Array, weights: jax.Array, dtype=jnp.float32) -> jax.Array:
    """A product in the type of its operands, accumulated in float32."""
    return jnp.einsum(equation, inputs, weights, preferred_element_type=dtype)


def _sum_of_outer_products(x: jax.Array, y: jax.Array) -> jax.Array:
    """A weight's gradient from all frames: (T, N, F) and (T, N, K) to (F, K), float32."""
    # Flat first: a product that sums over two axes begins with a copy of either operand on a CPU.
    return _product("mf,mk->fk", x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]))


def _input_gates(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    """Input gates of every frame, but for the bias: (T, N, F) and (F, 3H) to (T, N, 3H)."""
    features, gates = kernel.shape
    if jax.default_backend() == "cpu" and features >= 1024:
        # A CPU's product is faster, by more than the turning costs, where its left operand lies
        # along the rows; the barrier keeps the compiler from turning it back.
        turned = lax.optimization_barrier(inputs.reshape(-1, features).T)
        x = _product("fm,fk->mk", turned, kernel, kernel.dtype)
        return x.reshape(*inputs.shape[:-1], gates)
    return _product("tnf,fk->tnk", inputs, kernel, kernel.dtype)


def _frame_product(weight: jax.Array, count: int, back: bool) -> Callable[[jax.Array], jax.Array]:
    """What multiplies one frame's rows, ``count`` of them, by ``weight`` (D, K, M).

    Rows (D, N, K) become (D, N, M), or, ``back``, cotangents (D, N, M) become (D, N, K).

    A CPU's matrix product copies its right operand into another order in every call.  Where that
    would be a large weight, frame after frame, it becomes the left one and the few rows turn; the
    barriers keep the compiler from turning it all back.
    """
    directions, *sizes = weight.shape
    # In an exported program the number of rows is a symbol.
    few = isinstance(count, int) and 8 * count < min(sizes)
    if jax.default_backend() != "cpu" or directions > 1 or not few:
        equation = "dnm,dkm->dnk" if back else "dnk,dkm->dnm"
        return lambda rows: _product(equation, rows, weight)
    turned, barrier = weight[0] if back else weight[0].T, lax.optimization_barrier
    return lambda rows: barrier(_product("mk,kn->mn", turned, barrier(rows[0].T))).T[None]


def _joined(*arrays: jax.Array) -> jax.Array | tuple[jax.Array, ...]:
    """What a scan emits of arrays (D, N, H): on accelerators one, joined along its last axis.

    A GPU starts a kernel of its own for every array that a scan writes, and a TPU's compiler moves
    less for a joined one; a CPU's loops over it would be slower.
    """
    return arrays if jax.default_backend() == "cpu" else jnp.concatenate(arrays, -1)


def _apart(arrays: jax.Array | tuple[jax.Array, ...], count: int) -> Sequence[jax.Array]:
    """The ``count`` arrays that `_joined` took, whatever axes have come to lead."""
    return arrays if isinstance(arrays, tuple) else jnp.split(arrays, count, -1)


def _stacked(directions: Sequence[Any]) -> Any:
    """One frame's arrays of each direction along a new first axis."""
    return jax.tree.map(lambda *arrays: jnp.stack(arrays), *directions)


# Frames whose gates are computed again at a time: the more, the fewer sums of the gradients.
PART_FRAMES = 16


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def gru(
    inputs: Sequence[jax.Array],
    kernel: jax.Array,
    input_bias: jax.Array,
    weight: jax.Array,
    bias: jax.Array,
    remat: bool,
) -> list[jax.Array]:
    """Runs D GRUs (PyTorch's cell, gates in the order reset, update, new) side by side.

    They share nothing but the scan, whose products are batched.  The large ones before and after
    it are each direction's own, so that no large array has to be put into another order.

    Args:
      inputs: D arrays (T, N, F), in the type to multiply in.
      kernel, weight: of the inputs (D, F, 3H) and of the recurrence (D, H, 3H), in that type.
      input_bias, bias: of either (D, 3H), float32.
      remat: whether the gradient keeps nothing but inputs and states.  From the states,
        the gates of several frames are again one large product; the backward pass goes through
        the sequence in parts of `PART_FRAMES` frames and holds one part's at a time.

    Returns:
      D arrays of the states of every frame (T, N, H) from a zero state.  They, the input gates and
      what the gradient keeps have the type of ``weight``; a frame is computed in float32.
    """
    step, start, x = _recurrence(inputs, kernel, input_bias, weight, bias)

    def frame(state, x_t):
        state, _ = step(state, x_t)
        return state, state[weight.dtype.name]

    states = lax.scan(frame, start, x)[1]
    return [states[:, d] for d in range(len(inputs))]


def _forward(inputs, kernel, input_bias, weight, bias, remat):
    parameters = kernel, input_bias, weight, bias
    if remat:
        states = gru(inputs, *parameters, remat)
        return states, (inputs, states, parameters)
    step, start, x = _recurrence(inputs, *parameters)
    dtype = weight.dtype.name

    def frame(state, x_t):
        before = state[dtype]
        state, gates = step(state, x_t)
        return state, _joined(before, *(gate.astype(dtype) for gate in gates))

    last, kept = lax.scan(frame, start, x)
    before, last = _apart(kept, 5)[0], last[dtype]
    states = [jnp.concatenate([before[1:, d], last[None, d]]) for d in range(len(inputs))]
    return states, (inputs, kept, parameters)


def _recurrence(inputs, kernel, input_bias, weight, bias):
    """A scan's (step from state and input gates to state and gates, first state, input gates).

    A state is there in float32 and in the type to multiply in, by their names, lest a conversion
    stand between a frame's loops and the next one's product.
    """
    rows = inputs[0].shape[1]
    product = _frame_product(weight, rows, back=False)
    x_bias, h_bias = _thirds(input_bias[:, None]), _thirds(bias[:, None])

    def state_of(h):
        return {dtype: h.astype(dtype) for dtype in ("float32", weight.dtype.name)}

    def step(state, x_t):
        x, recurrent = _apart(_stacked(x_t), 3), _thirds(product(state[weight.dtype.name]))
        h, gates = _cell(x, recurrent, x_bias, h_bias, state["float32"])
        return state_of(h), gates

    x: list[Any] = [_input_gates(*direction) for direction in zip(inputs, kernel, strict=True)]
    if jax.default_backend() == "cpu":
        # Split before the scan: sliced from one frame's array, the gates' loops do not vectorise.
        x = [tuple(_thirds(each)) for each in x]
    return step, state_of(jnp.zeros((len(inputs), rows, weight.shape[1]))), x


def _thirds(gates):
    """Reset, update and new gates (…, H) of all three (…, 3H)."""
    return jnp.split(gates, 3, axis=-1)


def _cell(x, recurrent, input_bias, bias, h):
    """The next state (…, H), and what its gradient needs, from products and biases in thirds."""
    x_r, x_z, x_n = map(jnp.add, x, input_bias)
    h_r, h_z, h_n = map(jnp.add, recurrent, bias)
    r = nn.sigmoid(x_r + h_r)
    z = nn.sigmoid(x_z + h_z)
    n = jnp.tanh(x_n + r * h_n)
    return n + z * (h - n), (r, z, n, h_n)


def _gates_again(inputs, states, kernel, input_bias, weight, bias):
    """What `_forward` keeps, of several frames, from their inputs and the states before them."""
    each = []
    for d, (x, h) in enumerate(zip(inputs, states, strict=True)):
        x = _thirds(_input_gates(x, kernel[d]))
        recurrent = _thirds(_product("tnh,hk->tnk", h, weight[d]))
        _, gates = _cell(x, recurrent, _thirds(input_bias[d]), _thirds(bias[d]), h)
        each.append((h, *gates))
    return tuple(jnp.stack(arrays, axis=1) for arrays in zip(*each, strict=True))


def _backward(remat, saved, d_states):
    inputs, kept, parameters = saved
    d_last = jnp.zeros((len(inputs), *d_states[0].shape[1:]))

    def add_part(carry, part):
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
        # The sums stay float32, whatever the parameters' type in the products.
        zeros = [jnp.zeros(p.shape, jnp.float32) for p in parameters]
        (_, gradients), d_inputs = lax.scan(add_part, (d_last, zeros), parts, reverse=True)
        d_inputs = [x.reshape(length, *x.shape[2:]) for x in d_inputs]
    else:
        _, d_inputs, gradients = _part_backward(parameters, d_last, inputs, kept, d_states)
    return d_inputs, *(g.astype(p.dtype) for g, p in zip(gradients, parameters, strict=True))


def _part_backward(parameters, d_last, inputs, kept, d_states):
    """Cotangents of a part's first state, of its inputs, and of the parameters in float32.

    Args:
      parameters: as `gru` takes them.
      d_last: what the frames behind the part pass to its last state (D, N, H).
      inputs: the part's, as `gru` takes them.
      kept: the state before each frame and the gates of `_cell`, (T, D, N, H) each or joined.
      d_states: cotangents of the states, D arrays (T, N, H).
    """
    kernel, _, weight, _ = parameters
    product = _frame_product(weight, d_last.shape[1], back=True)

    def step(d_h, frame):
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

    d_states = jnp.stack(d_states, axis=1)
    d_first, emitted = lax.scan(step, d_last, (d_states, kept), reverse=True)
    before, emitted = _apart(kept, 5)[0], _apart(emitted, 4)

    def of_either(arrays):
        """Of four gates' cotangents, those of the inputs' product and of the recurrent one."""
        *common, new, product = arrays
        return (jnp.concatenate([*common, last], -1) for last in (new, product))

    d_input_bias, d_bias = of_either([x.sum((0, 2), dtype=jnp.float32) for x in emitted])
    d_inputs, d_kernel, d_weight = [], [], []
    for d, x in enumerate(inputs):
        d_x, d_recurrent = of_either([array[:, d] for array in emitted])
        # Spelt out, since the automatic transpose would first transpose the larger operand, the
        # gates, and then the result once more.
        d_inputs.append(_product("tnk,fk->tnf", d_x, kernel[d], x.dtype))
        d_kernel.append(_sum_of_outer_products(x, d_x))
        d_weight.append(_sum_of_outer_products(before[:, d], d_recurrent))
    return d_first, d_inputs, [jnp.stack(d_kernel), d_input_bias, jnp.stack(d_weight), d_bias]


gru.defvjp(_forward, _backward)


class GRULayer(nn.Module):
    """One layer of one or two GRUs side by side.

    With ``causal`` every direction runs forward in time, which is what the authors'
    program computes: it feeds a bidirectional GRU one frame at a time.  With
    ``bidirectional`` the second direction runs backward in time.
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

        # Each direction draws its matrix on its own, so that fan-in and fan-out are one GRU's.
        def per_direction(key, rows):
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

        # The second of two that are bidirectional reads from the last frame to the first.
        turned = self.recurrence == "bidirectional" and self.directions == 2
        each = [inputs, inputs[::-1]] if turned else [inputs] * self.directions
        if jax.default_backend() == "cpu":
            # One after the other, so that a single recurrent matrix has to stay in the cache.
            apart = [[p[d : d + 1] for p in parameters] for d in range(self.directions)]
            states = [gru([x], *p, self.remat)[0] for x, p in zip(each, apart, strict=True)]
        else:
            # In one scan, for half as many launches.
            states = gru(each, *parameters, self.remat)
        if turned:
            states[1] = states[1][::-1]
        return jnp.concatenate(states, axis=-1)


class GRU(nn.Module):
    """Stacked `GRULayer`s, without dropout."""

    hidden: int
    layers: int
    directions: int = 1
    recurrence: Recurrence = "causal"
    kernel_init: nn.initializers.Initializer | None = None
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """(T, N, F) inputs to the last layer's (T, N, D * H) states.

        Without ``kernel_init`` the kernels get PyTorch's default, U(±1/√H).  With
        ``remat`` the gradient needs less memory and more time.
        """
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
        return inputs
