"""The 25-joint Kinect v2 skeleton: joints, body parts, bones and the three streams.

Arrays of poses are laid out ``(..., T, M, V, C)``: frames, persons, joints, coordinates
(metres).  Networks see one flat feature vector a frame; its order is the one of the
authors' program (joint, coordinate, person), so that weights move between the two unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Array = np.ndarray | jax.Array
# What comes out is of the kind that went in.
SameArray = TypeVar("SameArray", np.ndarray, jax.Array)

JOINTS = 25
PERSONS = 2
COORDINATES = 3
SPINE = 1  # the joint that normalisation centres on
FEATURES = JOINTS * PERSONS * COORDINATES

# 0-based joints of the five body parts that masking and mixing work on (§3.2), in the order of the
# authors' program, whose names have left and right the other way round.
BODY_PARTS: dict[str, tuple[int, ...]] = {
    "trunk": (0, 1, 2, 3, 20),
    "right_arm": (8, 9, 10, 11, 23, 24),
    "left_arm": (4, 5, 6, 7, 21, 22),
    "right_leg": (16, 17, 18, 19),
    "left_leg": (12, 13, 14, 15),
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


def joint_stream(poses: Array) -> Array:
    return poses


def bone_stream(poses: Array) -> Array:
    """Each joint relative to its parent, ``(..., T, M, V, C)``."""
    return poses - poses[..., PARENTS, :]


def motion_stream(poses: Array) -> Array:
    """Displacement to the next frame, zero in the last, ``(..., T, M, V, C)``."""
    return jnp.diff(poses, axis=-4, append=poses[..., -1:, :, :, :])


STREAMS: dict[str, Callable[[Array], Array]] = {
    "joint": joint_stream,
    "bone": bone_stream,
    "motion": motion_stream,
}
# Where streams are stacked along an axis, in checkpoints too, this is their order.
STREAM_ORDER = tuple(STREAMS)


def missing_joints(poses: SameArray) -> SameArray:
    """Where persons (..., M, V, C) who are there lack a joint, (..., M, V) booleans.

    A missing joint is exactly zero. So is the first person's spine in normalised skeletons, which
    are centred on it: it is never counted.
    """
    zero = (poses == 0).all(axis=-1)
    person, joint = (np.arange(size) for size in poses.shape[-3:-1])
    centre = (person[:, None] == 0) & (joint == SPINE)
    return zero & ~zero.all(axis=-1, keepdims=True) & ~centre


def seen_in_stream(visible: SameArray, stream: str) -> SameArray:
    """Where (..., T, M, V) all joints that a stream's value is computed from are visible."""
    if stream == "bone":
        return visible & visible[..., PARENTS]
    if stream == "motion":
        stack = np if isinstance(visible, np.ndarray) else jnp
        following = [visible[..., 1:, :, :], visible[..., -1:, :, :]]
        return visible & stack.concatenate(following, axis=-3)
    return visible


def to_stream(poses: jax.Array, missing: jax.Array, stream: str) -> jax.Array:
    """A stream of poses (..., T, M, V, C), zero where it would lead to or from a missing joint.

    ``missing`` (..., T, M, V) is not read off the poses, since augmentation sets joints to zero,
    too, and of those the authors' program computes the streams.
    """
    seen = seen_in_stream(~missing, stream)
    return jnp.where(seen[..., None], STREAMS[stream](poses), 0)


def select_stream(stacked: Any, stream: str) -> Any:
    """One stream's part of a tree whose leaves lead with the streams in `STREAM_ORDER`."""
    return jax.tree.map(lambda leaf: leaf[STREAM_ORDER.index(stream)], stacked)


def poses_at(frames: Array, index: Array) -> Any:
    """The poses (..., M, V, C) at ``index`` (...) of packed frames.

    Args:
      frames: (F, M * V * C) as data sets are kept on the device, or (F, M, V, C).
      index: whole numbers.
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
