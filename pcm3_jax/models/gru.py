"""A scanned GRU with PyTorch's cell, one or two directions, and a hand-written backward pass.

Everything is time-major, because the scan walks over time.  The input products of all
frames are one large matrix product before the scan; the scan itself multiplies only the
recurrent weights, both directions as one batched product.  The backward scan emits the
gates' cotangents, and the recurrent weight's gradient is again one large product after it,
instead of one rank-N update a frame.
"""

from __future__ import annotations

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


def _cell(x: jax.Array, recurrent: jax.Array, h: jax.Array):
    """One step of PyTorch's GRU cell in float32.

    Args:
      x: input gates (..., 3H) in the order reset, update, new.
      recurrent: W_h h + b_h, (..., 3H).
      h: previous state (..., H).

    Returns:
      The next state and what the backward pass needs: (r, z, n, recurrent part of n).
    """
    x_r, x_z, x_n = jnp.split(x, 3, axis=-1)
    h_r, h_z, h_n = jnp.split(recurrent, 3, axis=-1)
    r = nn.sigmoid(x_r + h_r)
    z = nn.sigmoid(x_z + h_z)
    n = jnp.tanh(x_n + r * h_n)
    return n + z * (h - n), (r, z, n, h_n)


@jax.custom_vjp
def input_gates(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    """Input products of every frame: (T, N, F) and (F, D, 3H) to (T, N, D, 3H), float32."""
    return _product(inputs, kernel, "tnf,fdk->tndk")


def _input_gates_forward(inputs, kernel):
    return input_gates(inputs, kernel), (inputs, kernel)


def _input_gates_backward(saved, d_gates):
    inputs, kernel = saved
    d_gates = d_gates.astype(kernel.dtype)
    # Spelt out, since the automatic transpose would first transpose the larger operand, the
    # gates, and then the result once more.
    d_kernel = _product(inputs, d_gates, "tnf,tndk->fdk")
    d_inputs = _product(d_gates, kernel, "tndk,fdk->tnf")
    return d_inputs.astype(inputs.dtype), d_kernel.astype(kernel.dtype)


input_gates.defvjp(_input_gates_forward, _input_gates_backward)


@jax.custom_vjp
def gru_scan(x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
    """Runs D independent GRUs over time from a zero state.

    Args:
      x: input gates of every frame (T, N, D, 3H), input bias included, float32.
      weight: recurrent weights (D, H, 3H), in the type to multiply in.
      bias: recurrent biases (D, 3H), float32.

    Returns:
      States of every frame (T, N, D, H) in the type of ``weight``.
    """
    return _forward(x, weight, bias)[0]


def _forward(x, weight, bias):
    directions, hidden, _ = weight.shape

    def step(h, x_t):
        product = _product(h.astype(weight.dtype), weight, "dnh,dhk->dnk")
        h, gates = _cell(jnp.moveaxis(x_t, 1, 0), product + bias[:, None], h)
        return h, (jnp.moveaxis(h, 0, 1).astype(weight.dtype), gates)

    start = jnp.zeros((directions, x.shape[1], hidden), jnp.float32)
    _, (states, gates) = lax.scan(step, start, x)
    return states, (states, gates, weight)


def _backward(saved, d_states):
    states, gates, weight = saved
    transposed = jnp.swapaxes(weight, 1, 2)
    # The state each frame started from, direction-major like everything inside the scan.
    previous = jnp.concatenate([jnp.zeros_like(states[:1]), states[:-1]])

    def step(d_h, frame):
        d_state, h, (r, z, n, h_n) = frame
        d_h = d_h + jnp.moveaxis(d_state, 1, 0).astype(jnp.float32)
        d_new = d_h * (1 - z) * (1 - n * n)
        d_update = d_h * (jnp.moveaxis(h, 1, 0) - n) * z * (1 - z)
        d_reset = d_new * h_n * r * (1 - r)
        d_recurrent = jnp.concatenate([d_reset, d_update, d_new * r], -1)
        product = _product(d_recurrent.astype(weight.dtype), transposed, "dnk,dkh->dnh")
        d_x = jnp.concatenate([d_reset, d_update, d_new], -1)
        # Each direction on its own: so the product after the scan finds them contiguous.
        return d_h * z + product, (jnp.moveaxis(d_x, 0, 1), tuple(d_recurrent))

    start = jnp.zeros(gates[0].shape[1:], jnp.float32)
    _, (d_x, d_recurrent) = lax.scan(step, start, (d_states, previous, gates), reverse=True)
    d_weight = [
        _product(previous[:, :, direction], d.astype(weight.dtype), "tnh,tnk->hk")
        for direction, d in enumerate(d_recurrent)
    ]
    d_bias = [d.sum((0, 1)) for d in d_recurrent]
    return d_x, jnp.stack(d_weight).astype(weight.dtype), jnp.stack(d_bias)


gru_scan.defvjp(_forward, _backward)


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

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """(T, N, F) inputs to (T, N, D * H) states, directions concatenated."""
        frames, rows, features = inputs.shape
        shape = (self.directions, 3 * self.hidden)
        bias_init = symmetric_uniform(self.hidden**-0.5)

        # Both kernels draw each direction's matrix on its own, so that fan-in and fan-out
        # are those of one GRU; only the layout in memory differs.
        def per_direction(key, shape):
            keys = jax.random.split(key, self.directions)
            return jnp.stack([self.kernel_init(k, shape) for k in keys])

        def input_init(key):
            return jnp.moveaxis(per_direction(key, (features, 3 * self.hidden)), 0, 1)

        def recurrent_init(key):
            return per_direction(key, (self.hidden, 3 * self.hidden))

        input_kernel = self.param("input_kernel", input_init)
        input_bias = self.param("input_bias", bias_init, shape)
        recurrent_kernel = self.param("recurrent_kernel", recurrent_init)
        recurrent_bias = self.param("recurrent_bias", bias_init, shape)

        x = input_gates(inputs.astype(self.dtype), input_kernel.astype(self.dtype)) + input_bias
        backward_in_time = self.recurrence == "bidirectional" and self.directions == 2
        if backward_in_time:
            x = _reverse_second_direction(x)
        states = gru_scan(x, recurrent_kernel.astype(self.dtype), recurrent_bias)
        if backward_in_time:
            states = _reverse_second_direction(states)
        return states.reshape(frames, rows, self.directions * self.hidden)


def _reverse_second_direction(x: jax.Array) -> jax.Array:
    return jnp.stack([x[:, :, 0], x[::-1, :, 1]], axis=2)


class GRU(nn.Module):
    """Stacked `GRULayer`s, without dropout."""

    hidden: int
    layers: int
    directions: int = 1
    recurrence: Recurrence = "stepwise"
    kernel_init: nn.initializers.Initializer | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """(T, N, F) inputs to the last layer's (T, N, D * H) states.

        Without ``kernel_init`` the kernels get PyTorch's default, U(±1/√H).
        """
        for layer in range(self.layers):
            inputs = GRULayer(
                hidden=self.hidden,
                directions=self.directions,
                recurrence=self.recurrence,
                kernel_init=self.kernel_init or symmetric_uniform(self.hidden**-0.5),
                dtype=self.dtype,
                name=f"layer_{layer}",
            )(inputs)
        return inputs
