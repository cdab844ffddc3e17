"""Augmentation of one sequence (§3.1): temporal crop-resize, then shear or joint jittering.

`augment` combines the other functions.  Each ``random_*`` draws the parameters of an augmentation,
and the function named without the prefix applies them.  All take a single sequence, poses
(T, M, V, C) in metres; `jax.vmap` batches them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from pcm3_jax.data.joint_layouts import LAYOUTS
from pcm3_jax.data.skeleton import COORDINATES, JOINTS, PERSONS, Array, missing_joints, poses_at
from pcm3_jax.settings import Views

# Joints that each layout lacks, of those that lack any: (L, V) booleans.
_MISSING = np.array(
    [np.isin(np.arange(JOINTS), layout.missing) for layout in LAYOUTS.values() if layout.missing]
)


def augment(
    key: jax.Array,
    frames: jax.Array,
    start: Array,
    length: Array,
    config: Views,
    *,
    jittering: bool,
) -> tuple[jax.Array, jax.Array]:
    """Draws one augmented view of a sequence: a random crop, then shear or joint jittering.

    With ``drop_joints`` some views also lack the joints that a random layout lacks.

    Args:
      key: PRNG key of this view of this sequence.
      frames: packed frames (F, M * V * C) of many sequences.
      start, length: int32 scalars, where the sequence lies in ``frames``.
      config: the ``views`` section of the configuration.
      jittering: whether jittering replaces shear with probability ½; if False, always shear.

    Returns:
      Poses (T, M, V, C), and which joints are visible, (T, M, V) booleans.
    """
    key_crop, key_which, key_shear, key_jitter = jax.random.split(key, 4)
    offset, cropped = random_clip(key_crop, length, config.crop_ratio, config)
    poses, visible = crop(frames, start + offset, cropped, config)
    changed = shear(poses, random_shear(key_shear, config.shear_limit))
    if jittering:
        joints, matrix = random_jitter(key_jitter, config.jitter_joints, config.jitter_limit)
        jittered = jitter(poses, joints, matrix)
        changed = jnp.where(jax.random.bernoulli(key_which), jittered, changed)
    if config.drop_joints > 0:
        # Not a fifth key of the split, which would change the other draws; below 4 it is one of
        # the split's keys.
        visible &= ~random_missing(jax.random.fold_in(key, 4), config.drop_joints)
    return changed, visible


def crop(
    frames: jax.Array, start: Array, length: Array, config: Views
) -> tuple[jax.Array, jax.Array]:
    """The frames of a view and which joints are visible: (T, 2, V, C) and (T, 2, V) booleans.

    The crop ``frames[start : start + length]`` is resized to ``config.frames``, or without
    ``config.resize`` used as it is; a crop shorter than that then stays in its last frame.  A joint
    is visible where it is not missing in any frame that it is interpolated from.
    """
    if config.resize:
        between = _resized(length, config.frames)
    else:
        steps = jnp.minimum(jnp.arange(config.frames), length - 1)
        between = steps, steps, jnp.zeros(config.frames)
    left, right, weight = between
    missing = missing_joints(poses_at(frames, start + left))
    missing |= missing_joints(poses_at(frames, start + right)) & (weight > 0)[:, None, None]
    visible = ~jnp.pad(missing, ((0, 0), (0, PERSONS - missing.shape[1]), (0, 0)))
    return _interpolated(frames, start, between), visible


def crop_resize(frames: jax.Array, start: Array, length: Array, size: int) -> jax.Array:
    """Linear interpolation of ``frames[start : start + length]`` to ``size`` frames.

    Half-pixel centres, as in torch's ``interpolate(align_corners=False)``.  If the
    data has one person, a second person of zeros is added.

    Args:
      frames: packed frames of many sequences (F, M * V * C) with M ≤ 2.
      start, length: int32 scalars, the crop in frames.
      size: T.

    Returns:
      (T, 2, V, C).
    """
    return _interpolated(frames, start, _resized(length, size))


def _interpolated(
    frames: jax.Array, start: Array, between: tuple[jax.Array, jax.Array, jax.Array]
) -> jax.Array:
    """Poses (T, 2, V, C) between pairs of frames, as `_resized` gives them."""
    left, right, weight = between
    weight = weight[:, None, None, None]
    poses = poses_at(frames, start + left) * (1 - weight) + poses_at(frames, start + right) * weight
    return jnp.pad(poses, ((0, 0), (0, PERSONS - poses.shape[1]), (0, 0), (0, 0)))


def _resized(length: Array, size: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Left and right input frame of every output frame, (T,) each, and the right one's weight."""
    centre = (jnp.arange(size) + 0.5) * (length / size) - 0.5
    centre = jnp.maximum(centre, 0)
    left = jnp.floor(centre).astype(jnp.int32)
    return left, jnp.minimum(left + 1, length - 1), centre - left


def random_clip(
    key: jax.Array, length: Array, ratios: tuple[float, float], config: Views
) -> tuple[jax.Array, jax.Array]:
    """Draws start and length of a crop: `random_crop`, or ``config.frames`` without resizing."""
    if config.resize:
        return random_crop(key, length, ratios, config.min_crop_frames)
    return random_crop(key, length, (0.0, 0.0), config.frames)


def central_clip(length: Array, config: Views) -> tuple[Array, Array]:
    """Start and length of the central crop: `central_crop`, or ``config.frames`` unresized."""
    if config.resize:
        return central_crop(length, config.eval_crop_ratio)
    cropped = jnp.minimum(config.frames, length)
    return (length - cropped) // 2, cropped


def random_crop(
    key: jax.Array, length: Array, ratios: tuple[float, float], min_frames: int
) -> tuple[jax.Array, jax.Array]:
    """Draws start and length of a crop of a sequence of ``length`` frames.

    The crop has U(ratios) * ``length`` frames, but at least ``min_frames``; a sequence shorter than
    ``min_frames`` is used whole.
    """
    key_share, key_start = jax.random.split(key)
    share = jax.random.uniform(key_share, (), minval=ratios[0], maxval=ratios[1])
    wanted = jnp.floor(length * share).astype(jnp.int32)
    crop = jnp.clip(wanted, jnp.minimum(min_frames, length), length)
    return jax.random.randint(key_start, (), 0, length - crop + 1), crop


def central_crop(length: Array, ratio: float) -> tuple[jax.Array, Array]:
    """Start and length of the middle ``ratio`` of a sequence; both margins are rounded down."""
    margin = jnp.floor((1 - ratio) * length / 2).astype(jnp.int32)
    return margin, length - 2 * margin


def shear(poses: jax.Array, matrix: jax.Array) -> jax.Array:
    """Applies ``matrix`` (3, 3) to the coordinates of every joint."""
    return poses @ matrix.T


def random_shear(key: jax.Array, limit: float) -> jax.Array:
    """Draws a (3, 3) matrix: ones on the diagonal, U(-limit, limit) off it."""
    matrix = jax.random.uniform(key, (COORDINATES, COORDINATES), minval=-limit, maxval=limit)
    return jnp.where(jnp.eye(COORDINATES, dtype=bool), 1.0, matrix)


def jitter(poses: jax.Array, joints: jax.Array, matrix: jax.Array) -> jax.Array:
    """Applies ``matrix`` (3, 3) to the joints marked in ``joints`` (V,) booleans.

    The same joints are transformed in every frame and for every person.
    """
    return jnp.where(joints[:, None], poses @ matrix.T, poses)


def random_jitter(key: jax.Array, count: int, limit: float) -> tuple[jax.Array, jax.Array]:
    """Draws ``count`` joints without replacement, (V,) booleans, and a (3, 3) matrix.

    The matrix is all zeros or of entries U(-limit, limit), with probability ½ each.
    """
    key_joints, key_zero, key_matrix = jax.random.split(key, 3)
    joints = choose(key_joints, JOINTS, count)
    shape = (COORDINATES, COORDINATES)
    matrix = jax.random.uniform(key_matrix, shape, minval=-limit, maxval=limit)
    return joints, matrix * jax.random.bernoulli(key_zero)


def random_missing(key: jax.Array, share: float) -> jax.Array:
    """Draws a layout that lacks joints with probability ``share``: (V,) booleans of these."""
    key_which, key_layout = jax.random.split(key)
    layout = jax.random.randint(key_layout, (), 0, len(_MISSING))
    return jnp.asarray(_MISSING)[layout] & jax.random.bernoulli(key_which, share)


def choose(key: jax.Array, total: int, count: jax.Array | int) -> jax.Array:
    """Draws ``count`` (may be traced) of ``total`` without replacement, as (total,) booleans."""
    return jax.random.permutation(key, total) < count
