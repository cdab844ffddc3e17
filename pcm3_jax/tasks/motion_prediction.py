"""Motion prediction (Table 6): the decoder of Martinez et al. (CVPR 2017) on the encoder.

Poses are (N, T, M, V, C) in metres, or whatever the stream holds.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from pcm3_jax.data.skeleton import FEATURES, flatten_frames, unflatten_frames
from pcm3_jax.models.encoder import Encoder, dense
from pcm3_jax.models.gru import symmetric_uniform
from pcm3_jax.tasks.supervised import encode


class MotionPredictor(nn.Module):
    """Predicts poses that follow those observed.

    The encoder's sequence feature is the first state of a GRU, by way of a linear layer where
    their sizes differ.  The GRU reads the last observed pose and then its own predictions, in
    training too (the sampling-based loss), and each pose is the one before it plus a velocity
    read out linearly.  The read-out starts at zero, so the model starts at `zero_velocity`, and
    its first step of training moves the read-out alone.

    Attributes:
      encoder: its variables are those of a pretrained network's ``encoder``.
      hidden: size of the decoder's state.
    """

    encoder: Encoder
    hidden: int

    def setup(self) -> None:
        inputs = 2 * self.encoder.hidden
        if inputs != self.hidden:
            self.bridge = dense(self.hidden, inputs, self.encoder.dtype)
        self.decoder = _Step(self.hidden, self.encoder.dtype)

    def __call__(
        self, observed: jax.Array, last: jax.Array, future_frames: int, train: bool
    ) -> jax.Array:
        """Predicts ``future_frames`` frames.

        Args:
          observed: the stream that the encoder reads (N, T_observed, M, V, C).
          last: the last observed pose (N, M, V, C).
          future_frames: static.
          train: whether the encoder normalises by batch statistics, and moves the running ones,
            so that ``batch_stats`` must be mutable.

        Returns:
          Poses (N, future_frames, M, V, C), float32.
        """
        state = encode(self.encoder, observed, train)
        if state.shape[-1] != self.hidden:
            state = self.bridge(state)
        steps = nn.scan(
            _Step.__call__,
            variable_broadcast="params",
            split_rngs={"params": False},
            length=future_frames,
        )
        _, future = steps(self.decoder, (state, flatten_frames(last.astype(jnp.float32))), None)
        return unflatten_frames(jnp.moveaxis(future, 0, 1))


class _Step(nn.Module):
    """One predicted frame: ((N, H) state, (N, 150) pose) to the next, and the pose again."""

    hidden: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, carry: tuple[jax.Array, jax.Array], _: None):
        state, pose = carry
        init = symmetric_uniform(self.hidden**-0.5)
        cell = nn.GRUCell(
            self.hidden,
            kernel_init=init,
            recurrent_kernel_init=init,
            bias_init=init,
            dtype=self.dtype,
            name="gru",
        )
        state, _ = cell(state, pose)
        zeros = nn.initializers.zeros
        velocity = nn.Dense(FEATURES, kernel_init=zeros, dtype=self.dtype, name="velocity")(state)
        # The pose is summed in float32, whatever the type of the products.
        pose = pose + velocity.astype(jnp.float32)
        return (state, pose), pose


def zero_velocity(observed: jax.Array, future_frames: int) -> jax.Array:
    """The last observed pose (N, T, M, V, C), held for ``future_frames`` frames."""
    return jnp.repeat(observed[:, -1:], future_frames, axis=1)


def present_persons(poses: jax.Array) -> jax.Array:
    """(..., M) whether a person is in the frame of poses (..., M, V, C): not all zeros."""
    return (poses != 0).any((-2, -1))


def position_errors(prediction: jax.Array, truth: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Joint position errors of each sequence and horizon, and how many joints they are of.

    Only persons who are present in the target frame count.  MPJPE is the sum of the first over
    the sum of the second.

    Args:
      prediction, truth: poses (N, T, M, V, C) in metres.

    Returns:
      Millimetres (N, T), summed over the joints of the persons who are present, and counts (N, T).
    """
    present = present_persons(truth).astype(jnp.float32)
    # A norm whose gradient is zero, not NaN, where a joint is met exactly.
    errors = 1000 * optax.safe_norm(prediction - truth, 0.0, axis=-1)
    return (errors.sum(-1) * present).sum(-1), truth.shape[-2] * present.sum(-1)
