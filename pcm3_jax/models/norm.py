"""Batch normalisation with separate batch statistics for each encoder pass.

Independent passes (the intra, masked and mixed views) share one GRU scan for speed, but each is
normalised by its own batch statistics.  The running statistics are updated pass by pass in the
order of the authors' program, which differs from the order of computation; hence `forward_train`
returns the moments and `record` updates the running statistics.
"""

from __future__ import annotations

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax import lax


@flax.struct.dataclass
class Moments:
    """Mean and unbiased variance, (P, F) each, of P passes over the global batch."""

    mean: jax.Array
    variance: jax.Array


class BatchNorm(nn.Module):
    """PyTorch's BatchNorm1d over the last axis, synchronised over the devices of ``axis_name``.

    ``__call__`` normalises by the running statistics (Flax's ``use_running_average=True``),
    `forward_train` by batch statistics.

    Attributes:
      features: F, size of the last axis.
      axis_name: mapped device axis that the batch statistics are computed over, or None.
      momentum: weight of a new batch in the running statistics (PyTorch's convention).
      epsilon: added to the variance.
    """

    features: int
    axis_name: str | None = None
    momentum: float = 0.1
    epsilon: float = 1e-5

    def setup(self) -> None:
        shape = (self.features,)
        self.scale = self.param("scale", nn.initializers.ones, shape)
        self.bias = self.param("bias", nn.initializers.zeros, shape)
        self.mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        self.variance = self.variable("batch_stats", "variance", jnp.ones, shape)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises (..., F) by the running statistics, in float32."""
        scale = self.scale * lax.rsqrt(self.variance.value + self.epsilon)
        return (x.astype(jnp.float32) - self.mean.value) * scale + self.bias

    def forward_train(self, x: jax.Array, pass_axis: int) -> tuple[jax.Array, Moments]:
        """Normalises each pass by its own batch statistics, in float32.

        The running statistics stay unchanged until the moments are given to `record`.

        Args:
          x: (..., F) with P passes along ``pass_axis``.
          pass_axis: axis of the passes; statistics are over all other axes but the last.

        Returns:
          Normalised values of the shape of ``x``, and the moments of the passes.
        """
        x = x.astype(jnp.float32)
        axes = tuple(a for a in range(x.ndim - 1) if a != pass_axis)
        mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
        count = x.size // (x.shape[pass_axis] * self.features)
        if self.axis_name is not None:
            # All shards have the same size, so their means and variances combine exactly; stacking
            # them takes a single collective.
            means, variances = lax.all_gather(jnp.stack([mean, variance]), self.axis_name, axis=1)
            mean = means.mean(0)
            variance = (variances + jnp.square(means - mean)).mean(0)
            count *= means.shape[0]
        y = (x - mean) * lax.rsqrt(variance + self.epsilon) * self.scale + self.bias
        unbiased = variance * (count / (count - 1))
        shape = (x.shape[pass_axis], self.features)
        return y, Moments(mean.reshape(shape), unbiased.reshape(shape))

    def record(self, moments: Moments) -> None:
        """Updates the running statistics with the moments of each pass, in order."""
        for mean, variance in zip(moments.mean, moments.variance, strict=True):
            self.mean.value += self.momentum * (mean - self.mean.value)
            self.variance.value += self.momentum * (variance - self.variance.value)
