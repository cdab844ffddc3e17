"""Batch normalisation with statistics of their own for every encoder pass.

Passes that do not depend on each other share one scan for speed, but each is normalised by
its own batch, and the running statistics take the passes in the order of the authors'
program.  So normalising and recording are two calls.
"""

from __future__ import annotations

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax import lax


@flax.struct.dataclass
class Moments:
    """Mean and unbiased variance (P, F) of each pass over the global batch."""

    mean: jax.Array
    variance: jax.Array


class BatchNorm(nn.Module):
    """PyTorch's BatchNorm1d over the last axis, global over the devices of ``axis_name``."""

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

    def __call__(self, x: jax.Array, pass_axis: int) -> tuple[jax.Array, Moments]:
        """Normalises each pass by its own batch statistics, in float32.

        Args:
          x: values (..., F) with the P passes along ``pass_axis``.
          pass_axis: the axis of the passes; all others but the last are averaged over.

        Returns:
          Normalised values and the passes' moments, to be given to `record`.
        """
        x = x.astype(jnp.float32)
        axes = tuple(a for a in range(x.ndim - 1) if a != pass_axis)
        mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
        count = x.size // (x.shape[pass_axis] * self.features)
        if self.axis_name is not None:
            # Means and variances of equally large shares combine exactly, and travel once.
            means, variances = lax.all_gather(jnp.stack([mean, variance]), self.axis_name, axis=1)
            mean = means.mean(0)
            variance = (variances + jnp.square(means - mean)).mean(0)
            count *= means.shape[0]
        y = (x - mean) * lax.rsqrt(variance + self.epsilon) * self.scale + self.bias
        unbiased = variance * (count / (count - 1))
        shape = (x.shape[pass_axis], self.features)
        return y, Moments(mean.reshape(shape), unbiased.reshape(shape))

    def frozen(self, x: jax.Array) -> jax.Array:
        """Normalises (..., F) by the running statistics."""
        scale = self.scale * lax.rsqrt(self.variance.value + self.epsilon)
        return (x.astype(jnp.float32) - self.mean.value) * scale + self.bias

    def record(self, moments: Moments) -> None:
        """Moves the running statistics towards each pass's moments, in the order given."""
        for mean, variance in zip(moments.mean, moments.variance, strict=True):
            self.mean.value += self.momentum * (mean - self.mean.value)
            self.variance.value += self.momentum * (variance - self.variance.value)
