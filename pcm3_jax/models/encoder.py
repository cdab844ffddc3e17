"""The encoder f (input normalisation and a stacked Bi-GRU) and the projector h."""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from pcm3_jax.data.skeleton import FEATURES
from pcm3_jax.models.gru import GRU, Recurrence, symmetric_uniform
from pcm3_jax.models.norm import BatchNorm, Moments


def dense(
    features: int,
    fan_in: int,
    dtype: jnp.dtype,
    kernel_init: nn.initializers.Initializer | None = None,
) -> nn.Dense:
    """A linear layer with PyTorch's default initialisation, U(±1/√fan_in)."""
    default = symmetric_uniform(fan_in**-0.5)
    return nn.Dense(features, kernel_init=kernel_init or default, bias_init=default, dtype=dtype)


class Encoder(nn.Module):
    """BatchNorm over a frame's 150 features, then the Bi-GRU (§4.2).

    ``__call__`` is inference, with running statistics and without prompts; `forward_train` uses
    batch statistics.

    Example:
      features = encoder.apply(variables, frames)  # (N, T, 150) → (T, N, 2H)
      feature = encoder.sequence_feature(features)  # (N, 2H)

    Attributes:
      hidden: H, units of a direction.
      layers: number of Bi-GRU layers.
      recurrence: as in `GRULayer`.
      prompt_placement: "before_norm" adds the domain prompt to the raw frame (Eq. 6); BatchNorm's
        mean subtraction cancels it exactly.  "after_norm" adds it to the normalised frame, where
        it has an effect.
      dtype: of the matrix products.
      axis_name: as in `BatchNorm`.
      remat: as in `GRU`.
    """

    hidden: int
    layers: int
    recurrence: Recurrence
    prompt_placement: str
    dtype: jnp.dtype
    axis_name: str | None
    remat: bool

    def setup(self) -> None:
        self.input_norm = BatchNorm(FEATURES, self.axis_name)
        self.gru = GRU(
            hidden=self.hidden,
            layers=self.layers,
            directions=2,
            recurrence=self.recurrence,
            kernel_init=nn.initializers.xavier_uniform(),
            dtype=self.dtype,
            remat=self.remat,
        )

    def __call__(self, frames: jax.Array) -> jax.Array:
        """Encodes flat frames (N, T, 150) to features of every frame (T, N, 2H), time-major."""
        return self.gru(jnp.moveaxis(self.input_norm(frames), 1, 0))

    def forward_train(
        self, frames: jax.Array, prompts: jax.Array | None
    ) -> tuple[jax.Array, Moments]:
        """Encodes P passes, each normalised by its own batch statistics.

        The passes, for instance the intra, masked and mixed views, share one scan.

        Args:
          frames: flat frames (P, N, T, 150).
          prompts: domain prompts (P, 150), or None.

        Returns:
          Features of every frame (T, P, N, 2H), time-major, and the input moments for `record`.
        """
        if prompts is not None and self.prompt_placement == "before_norm":
            frames = frames + prompts[:, None, None]
        frames, moments = self.input_norm.forward_train(frames, pass_axis=0)
        if prompts is not None and self.prompt_placement == "after_norm":
            frames = frames + prompts[:, None, None]
        passes, rows, length, _ = frames.shape
        time_major = jnp.moveaxis(frames, 2, 0).reshape(length, passes * rows, FEATURES)
        features = self.gru(time_major)
        return features.reshape(length, passes, rows, 2 * self.hidden), moments

    def record(self, moments: Moments) -> None:
        """Updates the running statistics, as `BatchNorm.record`."""
        self.input_norm.record(moments)

    def sequence_feature(self, features: jax.Array) -> jax.Array:
        """Sequence features (..., 2H) from the features of every frame (T, ..., 2H)."""
        if self.recurrence == "causal":
            return features[-1]
        # The backward GRU has read the whole sequence at the first frame.
        return jnp.concatenate(
            [features[-1, ..., : self.hidden], features[0, ..., self.hidden :]], axis=-1
        )

    def read_out(
        self, frames: jax.Array, readout: Readout, length: jax.Array | None = None
    ) -> jax.Array:
        """Sequence features (N, F) of flat frames (N, T, 150), float32.

        Args:
          frames: of the encoder's stream.
          readout: which states make the feature.
          length: number of frames that count, of a causal encoder; None: all.
        """
        layers = readout.layers or (self.layers,)
        states = self.gru(jnp.moveaxis(self.input_norm(frames), 1, 0), layers).astype(jnp.float32)
        if length is None:
            pools = {
                "last": lambda: self.sequence_feature(states),
                "mean": lambda: states.mean(0),
                "max": lambda: states.max(0),
            }
        else:
            counted = (jnp.arange(len(states)) < length)[:, None, None, None]
            pools = {
                "last": lambda: states[length - 1],
                "mean": lambda: jnp.where(counted, states, 0).sum(0) / length,
                "max": lambda: jnp.where(counted, states, -jnp.inf).max(0),
            }
        return join_parts(jnp.stack([pools[name]() for name in readout.pooling], axis=1))


class Readout(NamedTuple):
    """How a sequence's feature is read from the states of all frames.

    Attributes:
      layers: numbers from 1; (): the last layer.
      pooling: of "last", "mean" and "max", over time.
    """

    layers: tuple[int, ...]
    pooling: tuple[str, ...]

    @property
    def parts(self) -> int:
        """Number of parts of length 2H that make a feature."""
        return max(1, len(self.layers)) * len(self.pooling)


LAST_STATE = Readout((), ("last",))


def join_parts(parts: jax.Array) -> jax.Array:
    """A feature (N, F) of its parts (N, poolings, layers, 2H), each at unit length if several."""
    rows, poolings, layers, width = parts.shape  # symbolic rows in exported programs
    if poolings * layers > 1:
        parts = unit_length(parts)
    return parts.reshape(rows, poolings * layers * width)


class Projector(nn.Module):
    """Two-layer MLP h onto the unit sphere: (..., F) to (..., D) float32."""

    inputs: int
    features: int
    dtype: jnp.dtype

    def setup(self) -> None:
        self.inner = dense(self.inputs, self.inputs, self.dtype)
        self.outer = dense(self.features, self.inputs, self.dtype, nn.initializers.xavier_uniform())

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.outer(nn.relu(self.inner(x)))
        return unit_length(x.astype(jnp.float32))


def unit_length(x: jax.Array) -> jax.Array:
    """L2-normalises the last axis; a zero vector stays zero."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
