"""MoCo (§3.1): the momentum-updated key encoder and the queue of past keys."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def update_key_params(key_params: Any, query_params: Any, momentum: float) -> Any:
    """θ_k ← α θ_k + (1 - α) θ_q on every leaf, with α = ``momentum``."""
    return jax.tree.map(
        lambda key, query: momentum * key + (1 - momentum) * query, key_params, query_params
    )


def push(queue: jax.Array, pointer: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Replaces the oldest entries of the queue by new keys, first in, first out.

    Args:
      queue: (K, D) unit vectors.
      pointer: int32 scalar, index of the oldest entry.
      keys: (B, D) new keys.  B need not divide K; where B > K, the last K keys are kept.

    Returns:
      The queue and the index of its oldest entry.
    """
    size, count = queue.shape[0], keys.shape[0]
    kept = keys[-size:]
    slots = (pointer + (count - kept.shape[0]) + jnp.arange(kept.shape[0])) % size
    queue = queue.at[slots].set(kept, unique_indices=True)
    return queue, (pointer + count) % size


def gather_keys(keys: jax.Array, axis_name: str | None) -> jax.Array:
    """All-gathers each device's keys (B / n, D) to those of the global batch (B, D), in order."""
    return keys if axis_name is None else lax.all_gather(keys, axis_name, tiled=True)
