"""An encoder with a head for one task; both are trained on labels or on future poses."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from pcm3_jax.data.skeleton import FEATURES, flatten_frames, unflatten_frames
from pcm3_jax.models.encoder import Encoder, dense
from pcm3_jax.models.gru import symmetric_uniform


class Classifier(nn.Module):
    """A linear layer on the sequence feature of an encoder; both are trained.

    Attributes:
      encoder: has the same variable tree as a pretrained network's ``encoder``.
      classes: number of classes.
    """

    encoder: Encoder
    classes: int

    def setup(self) -> None:
        self.head = nn.Dense(self.classes, kernel_init=nn.initializers.normal(0.01))

    def __call__(self, poses: jax.Array, train: bool) -> jax.Array:
        """Scores (N, classes) of poses (N, T, M, V, C).

        With ``train`` the encoder normalises by batch statistics and updates the running ones, so
        ``batch_stats`` must be mutable.
        """
        return self.head(encode(self.encoder, poses, train).astype(jnp.float32))


def encode(encoder: Encoder, poses: jax.Array, train: bool) -> jax.Array:
    """Sequence features (N, 2H) of poses (N, T, M, V, C), without prompts."""
    frames = flatten_frames(poses.astype(jnp.float32))
    if not train:
        return encoder.sequence_feature(encoder(frames))
    features, moments = encoder.forward_train(frames[None], None)
    encoder.record(moments)
    return encoder.sequence_feature(features[:, 0])


class MotionPredictor(nn.Module):
    """Predicts the poses that follow an observed sequence.

    The encoder's sequence feature is the initial state of a GRU, through a linear layer if their
    sizes differ.  The GRU reads the last observed pose and then its own predictions, in training
    too (the sampling-based loss).  Each pose is the previous one plus a velocity from a linear
    read-out.  The read-out is initialised to zero, so that the untrained model predicts
    standing still and the first training step changes only the read-out.

    Attributes:
      encoder: has the same variable tree as a pretrained network's ``encoder``.
      hidden: size of the decoder's state.
      frozen: whether the encoder gets no gradient, and uses its running statistics in training too.
    """

    encoder: Encoder
    hidden: int
    frozen: bool = False

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
          future_frames: number of frames to predict; a Python int.
          train: whether the encoder, unless frozen, normalises by batch statistics and updates the
            running ones; if so, ``batch_stats`` must be mutable.

        Returns:
          Poses (N, future_frames, M, V, C), float32.
        """
        state = encode(self.encoder, observed, train and not self.frozen)
        if self.frozen:
            state = lax.stop_gradient(state)
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
    """Predicts one frame: (state (N, H), pose (N, 150)) → (the next pair, the next pose)."""

    hidden: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, carry: tuple[jax.Array, jax.Array], _: None
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
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
        # Poses are accumulated in float32, also with bfloat16 matmuls.
        pose = pose + velocity.astype(jnp.float32)
        return (state, pose), pose
