"""The decoder dec of masked motion prediction (§3.2)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from pcm3_jax.data.skeleton import FEATURES
from pcm3_jax.models.encoder import dense
from pcm3_jax.models.gru import GRU
from pcm3_jax.models.norm import BatchNorm, Moments


class Decoder(nn.Module):
    """Linear, BatchNorm, ReLU, Linear on each frame; a forward GRU; Linear to the frame.

    ``__call__`` is inference, with running statistics and without prompt; `forward_train` uses
    batch statistics.

    Attributes:
      inputs: 2H, the size of the encoder's features.
      hidden: size of every hidden layer.
      layers: number of GRU layers.
      prompt_placement: "before_norm" adds the prediction prompt to the features; BatchNorm's mean
        subtraction cancels it exactly.  "after_norm" multiplies the prompt by the first linear
        layer's kernel and adds the product after BatchNorm, where it has an effect.
      dtype: of the matrix products.
      axis_name: as in `BatchNorm`.
      remat: as in `GRU`.
    """

    inputs: int
    hidden: int
    layers: int
    prompt_placement: str
    dtype: jnp.dtype
    axis_name: str | None
    remat: bool

    def setup(self) -> None:
        self.reduce = dense(self.hidden, self.inputs, self.dtype)
        self.norm = BatchNorm(self.hidden, self.axis_name)
        self.mix = dense(self.hidden, self.hidden, self.dtype)
        self.gru = GRU(self.hidden, self.layers, dtype=self.dtype, remat=self.remat)
        self.reconstruct = dense(FEATURES, self.hidden, self.dtype)

    def __call__(self, features: jax.Array) -> jax.Array:
        """Predicts flat frames (N, T, 150) in float32 from features (T, N, 2H)."""
        x = self.gru(self.mix(nn.relu(self.norm(self.reduce(features)))))
        return jnp.moveaxis(self.reconstruct(x).astype(jnp.float32), 0, 1)

    def forward_train(
        self, features: jax.Array, prompt: jax.Array | None
    ) -> tuple[jax.Array, Moments]:
        """Predicts every frame, normalising by batch statistics.

        Args:
          features: encoder features (T, P, N, 2H) of P passes.
          prompt: the prediction prompt on its channels (2H,), or None.

        Returns:
          Flat frames (P, N, T, 150) in float32, and the moments for `record`.
        """
        if prompt is not None and self.prompt_placement == "before_norm":
            features = features + prompt
        x, moments = self.norm.forward_train(self.reduce(features), pass_axis=1)
        if prompt is not None and self.prompt_placement == "after_norm":
            x = x + self.reduce(prompt) - self.reduce(jnp.zeros_like(prompt))
        x = self.mix(nn.relu(x))
        length, passes, rows, _ = x.shape
        x = self.gru(x.reshape(length, passes * rows, self.hidden))
        frames = self.reconstruct(x).astype(jnp.float32)
        frames = frames.reshape(length, passes, rows, FEATURES)
        return jnp.moveaxis(frames, 0, 2), moments

    def record(self, moments: Moments) -> None:
        """Updates the running statistics, as `BatchNorm.record`."""
        self.norm.record(moments)
