"""A scanned GRU with PyTorch's cell, one or two directions, and a hand-written backward pass.

Everything is time-major, because the scan walks over time.  The input products of all
frames are one large matrix product before the scan; the scan itself multiplies only the
recurrent weights.  The backward scan emits the gates' cotangents, and the recurrent weight's
gradient is again one large product after it, instead of one rank-N update a frame.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Recurrence = Literal["stepwise", "bidirectional"]


def symmetric_uniform(bound: float) -> nn.initializers.Initializer:
    """U(-bound, bound)."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def _product(inputs: jax.Array, weights: jax.Array, equation: str) -> jax.Array:
    """A product in the type of its operands, accumulated and returned in float32."""
    return jnp.einsum(equation, inputs, weights, preferred_element_type=jnp.float32)


def _sum_of_outer_products(x: jax.Array, y: jax.Array) -> jax.Array:
    """A weight's gradient from all frames: (T, N, F) and (T, N, K) to (F, K), float32."""
    # Flat first: a product that sums over two axes begins with a copy of either operand on a CPU.
    return _product(x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]), "mf,mk->fk")


def _input_gates(inputs: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """Input gates of every frame: (T, N, F), (F, 3H) and (3H,) to (T, N, 3H), float32."""
    features, gates = kernel.shape
    if jax.default_backend() == "cpu" and features >= 1024:
        # A CPU's product is faster, by more than the turning costs, where its left operand lies
        # along the rows; the barrier keeps the compiler from turning it back.
        turned = lax.optimization_barrier(inputs.reshape(-1, features).T)
        x = _product(turned, kernel, "fm,fk->mk").reshape(*inputs.shape[:-1], gates)
    else:
        x = _product(inputs, kernel, "tnf,fk->tnk")
    return x + bias


def _frame_product(weight: jax.Array, count: int) -> Callable[[jax.Array], jax.Array]:
    """What multiplies one frame's rows (N, K), ``count`` of them, by ``weight`` (K, M).

    A CPU's matrix product copies its right operand into another order in every call.  Where that
    would be a large weight, frame after frame, it becomes the left one and the few rows turn; the
    barriers keep the compiler from turning it all back.
    """
    # In an exported program the number of rows is a symbol.
    few = isinstance(count, int) and 8 * count < min(weight.shape)
    if jax.default_backend() != "cpu" or not few:
        return lambda rows: _product(rows, weight, "nk,km->nm")
    turned, barrier = weight.T, lax.optimization_barrier
    return lambda rows: barrier(_product(turned, barrier(rows.T), "mk,kn->mn")).T


def _joined(arrays: tuple[jax.Array, ...]) -> jax.Array | tuple[jax.Array, ...]:
    """What a scan emits of four arrays (N, H): on a GPU one (N, 4H).

    A GPU starts a kernel of its own for every array that a scan writes.  A CPU's loops over a
    joined one are slower, and a TPU's compiler needs more memory for it.
    """
    return jnp.concatenate(arrays, -1) if jax.default_backend() == "gpu" else arrays


def _apart(arrays: jax.Array | tuple[jax.Array, ...]) -> Sequence[jax.Array]:
    """The four arrays that `_joined` took, whatever axes have come to lead."""
    return arrays if isinstance(arrays, tuple) else jnp.split(arrays, 4, -1)


# Frames whose gates are computed again at a time: the more, the fewer sums of the gradients.
PART_FRAMES = 16


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def gru(
    inputs: jax.Array,
    kernel: jax.Array,
    input_bias: jax.Array,
    weight: jax.Array,
    bias: jax.Array,
    rematerialise: bool,
) -> jax.Array:
    """Runs one GRU (PyTorch's cell, gates in the order reset, update, new) from a zero state.

    Args:
      inputs: (T, N, F), in the type to multiply in.
      kernel, weight: of the inputs (F, 3H) and of the recurrence (H, 3H), in that type.
      input_bias, bias: of either (3H,), float32.
      rematerialise: whether the gradient keeps nothing but inputs and states.  From the states,
        the gates of several frames are again one large product; the backward pass goes through
        the sequence in parts of `PART_FRAMES` frames and holds one part's at a time.

    Returns:
      States of every frame (T, N, H) in the type of ``weight``.
    """
    return _forward(inputs, kernel, input_bias, weight, bias, rematerialise)[0]


def _forward(inputs, kernel, input_bias, weight, bias, rematerialise):
    product = _frame_product(weight, inputs.shape[1])

    def step(h, x_t):
        recurrent = product(h.astype(weight.dtype)) + bias
        h, gates = _cell(x_t, jnp.split(recurrent, 3, axis=-1), h)
        return h, (h.astype(weight.dtype), _joined(gates))

    start = jnp.zeros((inputs.shape[1], weight.shape[0]), jnp.float32)
    # Split before the scan: sliced from one frame's array, the gates' loops do not vectorise.
    x = tuple(jnp.split(_input_gates(inputs, kernel, input_bias), 3, axis=-1))
    _, (states, gates) = lax.scan(step, start, x)
    kept = None if rematerialise else gates
    return states, (inputs, states, kept, (kernel, input_bias, weight, bias))


def _cell(x, recurrent, h):
    """The next state (…, H), and what its gradient needs."""
    (x_r, x_z, x_n), (h_r, h_z, h_n) = x, recurrent
    r = nn.sigmoid(x_r + h_r)
    z = nn.sigmoid(x_z + h_z)
    n = jnp.tanh(x_n + r * h_n)
    return n + z * (h - n), (r, z, n, h_n)


def _backward(rematerialise, saved, d_states):
    inputs, states, gates, parameters = saved
    # The state each frame started from.
    previous = jnp.concatenate([jnp.zeros_like(states[:1]), states[:-1]])
    backward = functools.partial(_part_backward, parameters)
    d_last = jnp.zeros(states.shape[1:], jnp.float32)
    arrays = inputs, previous, gates, d_states

    def add_part(carry, arrays):
        d_h, sums = carry
        d_h, d_inputs, gradients = backward(d_h, arrays)
        return (d_h, jax.tree.map(jnp.add, sums, gradients)), d_inputs

    if rematerialise:
        length = len(inputs)
        frames = max(n for n in range(1, PART_FRAMES + 1) if length % n == 0)
        parts = jax.tree.map(lambda x: x.reshape(-1, frames, *x.shape[1:]), arrays)
        # The sums stay float32, whatever the parameters' type in the products.
        zeros = [jnp.zeros(p.shape, jnp.float32) for p in parameters]
        (_, gradients), d_inputs = lax.scan(add_part, (d_last, zeros), parts, reverse=True)
        d_inputs = d_inputs.reshape(inputs.shape)
    else:
        _, d_inputs, gradients = backward(d_last, arrays)
    return d_inputs, *(g.astype(p.dtype) for g, p in zip(gradients, parameters, strict=True))


def _part_backward(parameters, d_last, arrays):
    """Cotangents of a part's first state, of its inputs, and of the parameters in float32.

    Args:
      parameters: as `gru` takes them.
      d_last: what the frames behind the part pass to its last state (N, H).
      arrays: the part's inputs, the state each frame started from, the gates of `_cell` or None,
        and the cotangents of the states, all (T, N, …).
    """
    kernel, input_bias, weight, bias = parameters
    inputs, previous, gates, d_states = arrays
    if gates is None:
        x = _input_gates(inputs, kernel, input_bias)
        recurrent = _product(previous, weight, "tnh,hk->tnk") + bias
        _, gates = _cell(jnp.split(x, 3, axis=-1), jnp.split(recurrent, 3, axis=-1), previous)
    product = _frame_product(weight.T, len(d_last))

    def step(d_h, frame):
        d_state, h, gates = frame
        r, z, n, h_n = _apart(gates)
        d_h = d_h + d_state.astype(jnp.float32)
        d_new = d_h * (1 - z) * (1 - n * n)
        d_update = d_h * (h - n) * z * (1 - z)
        d_reset = d_new * h_n * r * (1 - r)
        d_product = d_new * r
        d_recurrent = jnp.concatenate([d_reset, d_update, d_product], -1)
        d_h = d_h * z + product(d_recurrent.astype(weight.dtype))
        return d_h, _joined((d_reset, d_update, d_new, d_product))

    d_first, emitted = lax.scan(step, d_last, (d_states, previous, gates), reverse=True)
    *d_common, d_new, d_product = _apart(emitted)
    d_x, d_recurrent = (jnp.concatenate([*d_common, d], -1) for d in (d_new, d_product))
    # Spelt out, since the automatic transpose would first transpose the larger operand, the
    # gates, and then the result once more.
    operand = d_x.astype(kernel.dtype)
    d_inputs = _product(operand, kernel, "tnk,fk->tnf").astype(inputs.dtype)
    d_kernel = _sum_of_outer_products(inputs, operand)
    d_weight = _sum_of_outer_products(previous, d_recurrent.astype(weight.dtype))
    return d_first, d_inputs, [d_kernel, d_x.sum((0, 1)), d_weight, d_recurrent.sum((0, 1))]


gru.defvjp(_forward, _backward)


def _each_direction(function, *arrays) -> list[jax.Array]:
    """Applies ``function`` to each direction's part of arrays or lists that lead with D.

    A CPU takes one direction after the other, so that a single recurrent matrix has to stay
    in its cache; an accelerator takes both in one batched product, for half as many launches.
    """
    if jax.default_backend() == "cpu":
        return [function(*parts) for parts in zip(*arrays, strict=True)]
    return list(jax.vmap(function)(*map(jnp.asarray, arrays)))


class GRULayer(nn.Module):
    """One layer of one or two GRUs side by side.

    With ``stepwise`` every direction runs forward in time, which is what the authors'
    program computes: it feeds a bidirectional GRU one frame at a time.  With
    ``bidirectional`` the second direction runs backward in time.
    """

    hidden: int
    directions: int
    recurrence: Recurrence
    kernel_init: nn.initializers.Initializer
    dtype: jnp.dtype
    rematerialise: bool

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

        def one(inputs, *parameters):
            return gru(inputs, *parameters, self.rematerialise)

        if self.recurrence == "bidirectional" and self.directions == 2:
            states = _each_direction(one, [inputs, inputs[::-1]], *parameters)
            states[1] = states[1][::-1]
        else:
            states = _each_direction(functools.partial(one, inputs), *parameters)
        return jnp.concatenate(states, axis=-1)


class GRU(nn.Module):
    """Stacked `GRULayer`s, without dropout."""

    hidden: int
    layers: int
    directions: int = 1
    recurrence: Recurrence = "stepwise"
    kernel_init: nn.initializers.Initializer | None = None
    dtype: jnp.dtype = jnp.float32
    rematerialise: bool = False

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """(T, N, F) inputs to the last layer's (T, N, D * H) states.

        Without ``kernel_init`` the kernels get PyTorch's default, U(±1/√H).  With
        ``rematerialise`` the gradient needs less memory and more time.
        """
        for layer in range(self.layers):
            inputs = GRULayer(
                hidden=self.hidden,
                directions=self.directions,
                recurrence=self.recurrence,
                kernel_init=self.kernel_init or symmetric_uniform(self.hidden**-0.5),
                dtype=self.dtype,
                rematerialise=self.rematerialise,
                name=f"layer_{layer}",
            )(inputs)
        return inputs
