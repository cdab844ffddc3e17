"""Masks for masked motion prediction (§3.2): which joints of the first person stay visible."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pcm3_jax.augment.augmentation import choose
from pcm3_jax.data.skeleton import JOINTS, PERSONS, part_membership
from pcm3_jax.settings import MASK_UNITS, masked_units


def random_visibility(
    key: jax.Array, frames: int, clip_frames: int, strategy: str, ratio: float
) -> jax.Array:
    """Draws which joints stay visible, one mask for the whole batch.

    Args:
      key: the same on every device.
      frames: T, a multiple of ``clip_frames``.
      clip_frames: length of the clips that time is divided into; each clip has its own draw.
      strategy: "topology" hides body parts, "random" single joints, both of the first person only.
      ratio: share of the units that is hidden.

    Returns:
      (T, M, V) floats, 1 where visible.
    """
    count = masked_units(strategy, ratio)
    keys = jax.random.split(key, frames // clip_frames)
    units = jax.vmap(lambda k: choose(k, MASK_UNITS[strategy], count))(keys)
    joints = units @ part_membership() if strategy == "topology" else units
    hidden = jnp.repeat(joints, clip_frames, axis=0)
    return jnp.ones((frames, PERSONS, JOINTS)).at[:, 0].set(1.0 - hidden)
