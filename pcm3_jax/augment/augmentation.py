"""Augmentations of one sequence (§3.1): temporal crop-resize, shear, joint jittering.

Each function works on one sequence and is a pure function of its draws; `jax.vmap` takes it
to a batch.  Poses are (T, M, V, C) in metres.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pcm3_jax.data.skeleton import COORDINATES, JOINTS, PERSONS, missing_joints, poses_at


def crop_resize(frames: jax.Array, start: jax.Array, length: jax.Array, size: int) -> jax.Array:
    """Linear interpolation of ``frames[start : start + length]`` to ``size`` frames.

    Half-pixel centres, as torch's ``interpolate(align_corners=False)``.  A person that the
    data set lacks is appended as zeros.

    Args:
      frames: packed frames of many sequences (F, M * V * C) with M ≤ 2.
      start, length: int32 scalars.
      size: T.

    Returns:
      (T, 2, V, C).
    """
    left, right, weight = _neighbours(length, size)
    weight = weight[:, None, None, None]
    poses = poses_at(frames, start + left) * (1 - weight) + poses_at(frames, start + right) * weight
    return jnp.pad(poses, ((0, 0), (0, PERSONS - poses.shape[1]), (0, 0), (0, 0)))


def missing_in_crop(frames: jax.Array, start: jax.Array, length: jax.Array, size: int) -> jax.Array:
    """Where `crop_resize` interpolates from a missing joint, (T, 2, V) booleans."""
    left, right, weight = _neighbours(length, size)
    missing = missing_joints(poses_at(frames, start + left))
    missing |= missing_joints(poses_at(frames, start + right)) & (weight > 0)[:, None, None]
    return jnp.pad(missing, ((0, 0), (0, PERSONS - missing.shape[1]), (0, 0)))


def _neighbours(length: jax.Array, size: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The two frames that each of ``size`` lies between, and the second one's weight, (T,)."""
    centre = (jnp.arange(size) + 0.5) * (length / size) - 0.5
    centre = jnp.maximum(centre, 0)
    left = jnp.floor(centre).astype(jnp.int32)
    return left, jnp.minimum(left + 1, length - 1), centre - left


def random_crop(
    key: jax.Array, length: jax.Array, ratios: tuple[float, float], min_frames: int
) -> tuple[jax.Array, jax.Array]:
    """Start and length of a random crop of a sequence of ``length`` frames.

    The share is drawn from U(ratios); no crop is shorter than ``min_frames``, unless the
    sequence is.
    """
    key_share, key_start = jax.random.split(key)
    share = jax.random.uniform(key_share, (), minval=ratios[0], maxval=ratios[1])
    wanted = jnp.floor(length * share).astype(jnp.int32)
    crop = jnp.clip(wanted, jnp.minimum(min_frames, length), length)
    return jax.random.randint(key_start, (), 0, length - crop + 1), crop


def central_crop(length: jax.Array, ratio: float) -> tuple[jax.Array, jax.Array]:
    """Start and length of the middle ``ratio`` of a sequence, equal margins rounded down."""
    margin = jnp.floor((1 - ratio) * length / 2).astype(jnp.int32)
    return margin, length - 2 * margin


def shear(poses: jax.Array, matrix: jax.Array) -> jax.Array:
    """Applies a (3, 3) matrix to the coordinates of every joint."""
    return poses @ matrix.T


def random_shear(key: jax.Array, limit: float) -> jax.Array:
    """Ones on the diagonal, U(-limit, limit) off it."""
    matrix = jax.random.uniform(key, (COORDINATES, COORDINATES), minval=-limit, maxval=limit)
    return jnp.where(jnp.eye(COORDINATES, dtype=bool), 1.0, matrix)


def jitter(poses: jax.Array, joints: jax.Array, matrix: jax.Array) -> jax.Array:
    """Applies a (3, 3) matrix to the chosen joints (V,) booleans, in all frames and persons."""
    return jnp.where(joints[:, None], poses @ matrix.T, poses)


def random_jitter(key: jax.Array, count: int, limit: float) -> tuple[jax.Array, jax.Array]:
    """``count`` joints without replacement, and with equal chance zeros or U(-limit, limit)."""
    key_joints, key_zero, key_matrix = jax.random.split(key, 3)
    joints = choose(key_joints, JOINTS, count)
    shape = (COORDINATES, COORDINATES)
    matrix = jax.random.uniform(key_matrix, shape, minval=-limit, maxval=limit)
    return joints, matrix * jax.random.bernoulli(key_zero)


def choose(key: jax.Array, total: int, count: jax.Array | int) -> jax.Array:
    """``count`` of ``total`` without replacement, as (total,) booleans; ``count`` may be traced."""
    return jax.random.permutation(key, total) < count
