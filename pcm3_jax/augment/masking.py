"""Masks for masked motion prediction (§3.2): which joints of the first person are hidden."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from pcm3_jax.augment.augmentation import choose
from pcm3_jax.data.skeleton import BODY_PARTS, JOINTS, PERSONS, part_membership

# Units that one draw hides: a body part or a joint (Table 10).
STRATEGIES = {"topology": len(BODY_PARTS), "random": JOINTS}


def masked_units(strategy: str, ratio: float) -> int:
    """How many body parts or joints a ratio hides in a clip."""
    # The epsilon keeps products such as 5 * 0.6 from falling below their exact value.
    return math.floor(STRATEGIES[strategy] * ratio + 1e-9)


def random_visibility(
    key: jax.Array, frames: int, clip_frames: int, strategy: str, ratio: float
) -> jax.Array:
    """Draws a mask for the whole batch.

    Time is cut into clips of ``clip_frames``; each hides its own draw of body parts
    ("topology") or joints ("random").  The second person stays visible.

    Returns:
      (T, M, V) floats, 1 where visible.
    """
    count = masked_units(strategy, ratio)
    keys = jax.random.split(key, frames // clip_frames)
    units = jax.vmap(lambda k: choose(k, STRATEGIES[strategy], count))(keys)
    joints = units @ part_membership() if strategy == "topology" else units
    hidden = jnp.repeat(joints, clip_frames, axis=0)
    return jnp.ones((frames, PERSONS, JOINTS)).at[:, 0].set(1.0 - hidden)
