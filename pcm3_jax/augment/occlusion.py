"""Occlusion of sequences (Table 4): whole body parts, or a block of frames, are hidden."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pcm3_jax.data.skeleton import BODY_PARTS, part_membership
from pcm3_jax.settings import Occlusion

KINDS = ("none", "spatial", "temporal")


def visibility(key: jax.Array, frames: int, occlusion: Occlusion) -> jax.Array:
    """Draws which joints of one sequence stay visible, the same for both persons.

    Args:
      key: PRNG key of this sequence.
      frames: T.
      occlusion: the ``occlusion`` section of the configuration.  ``kind`` is "spatial" (a share of
        the five body parts is hidden in every frame), "temporal" (one block of frames is hidden)
        or "none"; the share is drawn from U(ratio) and rounded to whole parts or frames.

    Returns:
      (T, V) floats, 1 where visible.
    """
    joints = part_membership().shape[1]
    if occlusion.kind == "none":
        return jnp.ones((frames, joints))
    key_share, key_place = jax.random.split(key)
    low, high = occlusion.ratio
    share = jax.random.uniform(key_share, minval=low, maxval=high)
    if occlusion.kind == "spatial":
        # The number of hidden parts is traced, so a slice of this permutation is not possible.
        order = jax.random.permutation(key_place, len(BODY_PARTS))
        hidden = order < jnp.round(share * len(BODY_PARTS))
        return jnp.broadcast_to(1.0 - hidden @ part_membership(), (frames, joints))
    length = jnp.round(share * frames).astype(jnp.int32)
    start = jax.random.randint(key_place, (), 0, frames - length + 1)
    time = jnp.arange(frames)
    seen = (time < start) | (time >= start + length)
    return jnp.broadcast_to(seen[:, None].astype(jnp.float32), (frames, joints))
