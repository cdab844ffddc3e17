"""Occluded sequences (Table 4): body parts or a block of frames are set to zero."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pcm3_jax.data.skeleton import BODY_PARTS, part_membership

KINDS = ("none", "spatial", "temporal")


def visibility(key: jax.Array, frames: int, occlusion: ConfigDict) -> jax.Array:
    """Draws what stays visible of one sequence, (T, V) floats, 1 where visible.

    The share that is hidden is drawn from U(occlusion.ratio): of the five body parts, the same in
    every frame and of both persons ("spatial"), or of the frames, in one block ("temporal").
    """
    joints = part_membership().shape[1]
    if occlusion.kind == "none":
        return jnp.ones((frames, joints))
    key_share, key_place = jax.random.split(key)
    low, high = occlusion.ratio
    share = jax.random.uniform(key_share, minval=low, maxval=high)
    if occlusion.kind == "spatial":
        # The first so many parts of a random order.
        order = jax.random.permutation(key_place, len(BODY_PARTS))
        hidden = order < jnp.round(share * len(BODY_PARTS))
        return jnp.broadcast_to(1.0 - hidden @ part_membership(), (frames, joints))
    length = jnp.round(share * frames).astype(jnp.int32)
    start = jax.random.randint(key_place, (), 0, frames - length + 1)
    time = jnp.arange(frames)
    seen = (time < start) | (time >= start + length)
    return jnp.broadcast_to(seen[:, None].astype(jnp.float32), (frames, joints))
