"""The 25-joint Kinect v2 skeleton: joints, body parts, bones and the three streams.

Arrays of poses have axes ``(..., T, M, V, C)``: frames, persons, joints, coordinates (metres).
Networks see one flat feature vector per frame, in the order of the authors' program (joint,
coordinate, person), so that weights need no permutation between the two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Array = np.ndarray | jax.Array
# For functions that return NumPy for NumPy and JAX for JAX.
SameArray = TypeVar("SameArray", np.ndarray, jax.Array)

JOINTS = 25
PERSONS = 2
COORDINATES = 3
SPINE = 1  # the joint that normalisation moves to the origin
FEATURES = JOINTS * PERSONS * COORDINATES

# 0-based joints of the five body parts that masking and mixing use (§3.2), in the order of the
# authors' program, which swaps the names left and right.
BODY_PARTS: dict[str, tuple[int, ...]] = {
    "trunk": (0, 1, 2, 3, 20),
    "right_arm": (8, 9, 10, 11, 23, 24),
    "left_arm": (4, 5, 6, 7, 21, 22),
    "right_leg": (16, 17, 18, 19),
    "left_leg": (12, 13, 14, 15),
}

# The bone of joint j starts at joint PARENTS[j]; joint 20 is the root, its own parent.
PARENTS = np.array(
    [1, 20, 20, 2, 20, 4, 5, 6, 20, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18, 20, 22, 7, 24, 11]
)


def part_membership() -> np.ndarray:
    """Which joints belong to which body part: ``(5, V)`` booleans, rows as `BODY_PARTS`."""
    membership = np.zeros((len(BODY_PARTS), JOINTS), bool)
    for row, joints in zip(membership, BODY_PARTS.values(), strict=True):
        row[list(joints)] = True
    return membership


def joint_stream(poses: Array) -> Array:
    """The poses themselves, ``(..., T, M, V, C)``."""
    return poses


def bone_stream(poses: Array) -> Array:
    """Each joint relative to its parent (`PARENTS`), ``(..., T, M, V, C)``."""
    return poses - poses[..., PARENTS, :]


def motion_stream(poses: Array) -> Array:
    """Displacement to the next frame, zero in the last, ``(..., T, M, V, C)``."""
    return jnp.diff(poses, axis=-4, append=poses[..., -1:, :, :, :])


STREAMS: dict[str, Callable[[Array], Array]] = {
    "joint": joint_stream,
    "bone": bone_stream,
    "motion": motion_stream,
}
# Order of the streams where they are stacked along an axis, also in checkpoints.
STREAM_ORDER = tuple(STREAMS)


def missing_joints(poses: SameArray) -> SameArray:
    """Which joints of poses (..., M, V, C) are missing, (..., M, V) booleans.

    A joint whose coordinates are all zero is missing, with two exceptions: those of an absent
    person, all of whose joints are zero, and the first person's spine, which normalisation moves
    to the origin.
    """
    zero = (poses == 0).all(axis=-1)
    person, joint = (np.arange(size) for size in poses.shape[-3:-1])
    origin = (person[:, None] == 0) & (joint == SPINE)
    return zero & ~zero.all(axis=-1, keepdims=True) & ~origin


def visible_in_stream(visible: SameArray, stream: str) -> SameArray:
    """Whether all joints that a stream's value is computed from are visible.

    Args:
      visible: (..., T, M, V) booleans, the visible joints.
      stream: "joint", "bone" or "motion".

    Returns:
      (..., T, M, V) booleans.
    """
    if stream == "bone":
        return visible & visible[..., PARENTS]
    if stream == "motion":
        stack = np if isinstance(visible, np.ndarray) else jnp
        following = [visible[..., 1:, :, :], visible[..., -1:, :, :]]
        return visible & stack.concatenate(following, axis=-3)
    return visible


def to_stream(poses: jax.Array, visible: jax.Array, stream: str) -> jax.Array:
    """A stream of poses, zero wherever it would be computed from a missing joint.

    Args:
      poses: (..., T, M, V, C).
      visible: (..., T, M, V) booleans, False where a recorded joint is missing.  It is not derived
        from ``poses``, because augmentation also sets joints to zero, and the authors' program
        computes streams of those zeros.
      stream: "joint", "bone" or "motion".

    Returns:
      (..., T, M, V, C).
    """
    seen = visible_in_stream(visible, stream)
    return jnp.where(seen[..., None], STREAMS[stream](poses), 0)


def select_stream(stacked: Any, stream: str) -> Any:
    """One stream's slice of a tree whose leaves have a leading axis over `STREAM_ORDER`."""
    return jax.tree.map(lambda leaf: leaf[STREAM_ORDER.index(stream)], stacked)


def poses_at(frames: Array, index: Array) -> Any:
    """Gathers poses from packed frames.

    Args:
      frames: (F, M * V * C), as data sets are kept on the device, or (F, M, V, C).
      index: (...) integers, frames.

    Returns:
      (..., M, V, C).
    """
    poses = frames[index]
    return poses if frames.ndim > 2 else poses.reshape(*index.shape, -1, JOINTS, COORDINATES)


def flatten_frames(poses: jax.Array) -> jax.Array:
    """``(..., M, V, C)`` poses to ``(..., 150)`` features, index ``v * 6 + c * 2 + m``."""
    return jnp.moveaxis(poses, -3, -1).reshape(*poses.shape[:-3], FEATURES)


def unflatten_frames(features: jax.Array) -> jax.Array:
    """Inverse of `flatten_frames`."""
    split = features.reshape(*features.shape[:-1], JOINTS, COORDINATES, PERSONS)
    return jnp.moveaxis(split, -1, -3)
