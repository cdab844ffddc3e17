"""The 25-joint Kinect v2 skeleton: joints, body parts, bones and the three streams.

Arrays of poses are laid out ``(..., T, M, V, C)``: frames, persons, joints, coordinates
(metres).  Networks see one flat feature vector a frame; its order is the one of the
authors' program (joint, coordinate, person), so that weights move between the two unchanged.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

JOINTS = 25
PERSONS = 2
COORDINATES = 3
FEATURES = JOINTS * PERSONS * COORDINATES

# 0-based joints of the five body parts that masking and mixing work on (§3.2).
BODY_PARTS: dict[str, tuple[int, ...]] = {
    "trunk": (0, 1, 2, 3, 20),
    "left_arm": (8, 9, 10, 11, 23, 24),
    "right_arm": (4, 5, 6, 7, 21, 22),
    "left_leg": (16, 17, 18, 19),
    "right_leg": (12, 13, 14, 15),
}

# PARENTS[j] is the joint from which the bone of joint j starts; joint 20 is the root.
PARENTS = np.array(
    [1, 20, 20, 2, 20, 4, 5, 6, 20, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18, 20, 22, 7, 24, 11]
)


def part_membership() -> np.ndarray:
    """Which joints belong to which body part, ``(5, V)`` booleans."""
    membership = np.zeros((len(BODY_PARTS), JOINTS), bool)
    for row, joints in zip(membership, BODY_PARTS.values(), strict=True):
        row[list(joints)] = True
    return membership


def joint_stream(poses: jax.Array) -> jax.Array:
    return poses


def bone_stream(poses: jax.Array) -> jax.Array:
    """Each joint relative to its parent, ``(..., T, M, V, C)``."""
    return poses - poses[..., PARENTS, :]


def motion_stream(poses: jax.Array) -> jax.Array:
    """Displacement to the next frame, zero in the last, ``(..., T, M, V, C)``."""
    return jnp.diff(poses, axis=-4, append=poses[..., -1:, :, :, :])


STREAMS = {"joint": joint_stream, "bone": bone_stream, "motion": motion_stream}
# Where streams are stacked along an axis, in checkpoints too, this is their order.
STREAM_ORDER = tuple(STREAMS)


def of_stream(stacked: Any, stream: str) -> Any:
    """One stream's part of a tree whose leaves lead with the streams in `STREAM_ORDER`."""
    return jax.tree.map(lambda leaf: leaf[STREAM_ORDER.index(stream)], stacked)


def flatten_frames(poses: jax.Array) -> jax.Array:
    """``(..., M, V, C)`` poses to ``(..., 150)`` features, index ``v * 6 + c * 2 + m``."""
    return jnp.moveaxis(poses, -3, -1).reshape(*poses.shape[:-3], FEATURES)


def unflatten_frames(features: jax.Array) -> jax.Array:
    """Inverse of `flatten_frames`."""
    split = features.reshape(*features.shape[:-1], JOINTS, COORDINATES, PERSONS)
    return jnp.moveaxis(split, -1, -3)
