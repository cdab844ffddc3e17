"""Checks and normalises the skeletons that users pass, in which joints may be missing.

A mask marks missing joints with True.  A network sees zeros for them, as for joints that the sensor
lost; they are not filled in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from pcm3_jax.data.formats.arrays import read_skeleton
from pcm3_jax.data.joint_layouts import Layout, layout_named, layouts_of, to_kinect_v2
from pcm3_jax.data.normalization import (
    MAX_METRES,
    NANOMETRE,
    SPINE,
    apply_around_missing,
    leading_persons,
    no_normalization,
)
from pcm3_jax.data.skeleton import COORDINATES, JOINTS, PERSONS
from pcm3_jax.errors import UserError


class Sequence(NamedTuple):
    """One checked sequence.

    Attributes:
      poses: (T, 2, 25, 3) float32 metres, zeros where a person is absent or a joint was lost.
      visible: (T, 2, 25) booleans, False where a joint is missing.
    """

    poses: np.ndarray
    visible: np.ndarray

    @classmethod
    def empty(cls, frames: int) -> Sequence:
        """A sequence in which nobody is seen."""
        return cls(
            np.zeros((frames, PERSONS, JOINTS, COORDINATES), np.float32),
            np.ones((frames, PERSONS, JOINTS), bool),
        )


def read_sequences(
    skeletons: Any,
    mask: Any = None,
    *,
    persons: int = PERSONS,
    keep_masked: bool = False,
    layout: str | None = None,
) -> list[Sequence]:
    """Checks the skeletons and the mask that a caller passes.

    Args:
      skeletons: (N, T, M, 25, 3), (T, M, 25, 3) or (T, 25, 3), or a list of N arrays (T, M, 25, 3)
        or (T, 25, 3) of any lengths; metres.
      mask: None, or booleans that broadcast to the skeletons without their last axis, True where
        a joint is missing; for a list of skeletons also a list of N masks.
      persons: 1 or 2, how many to keep of those who are there (`leading_persons`).
      keep_masked: whether to keep finite coordinates of masked joints.
      layout: None, or as for `joint_layouts.layout_named`: the skeletons have its joints, and
        missing ones may also be NaN.

    Raises:
      UserError: names the sequence that cannot be used, and why.
    """
    if not isinstance(skeletons, (list, tuple)):
        array = _array(skeletons, "The array of skeletons")
        if array.ndim == 5:
            skeletons, mask = [*array], [*_mask(mask, array.shape[:-1], "The array of skeletons")]
        else:
            skeletons, mask = [array], [mask]
    masks = mask if isinstance(mask, (list, tuple)) else [mask] * len(skeletons)
    if len(masks) != len(skeletons):
        raise UserError(f"There are {len(masks)} masks for {len(skeletons)} sequences.")
    if not skeletons:
        raise UserError("There is no sequence: pass at least one.")
    return [
        read_sequence(
            array, f"Sequence {i}", part, persons=persons, keep_masked=keep_masked, layout=layout
        )
        for i, (array, part) in enumerate(zip(skeletons, masks, strict=True))
    ]


def read_sequence(
    skeleton: Any,
    what: str,
    mask: Any = None,
    *,
    persons: int = PERSONS,
    keep_masked: bool = False,
    layout: str | None = None,
) -> Sequence:
    """Checks one sequence (T, M, 25, 3) or (T, 25, 3); ``what`` names it in messages.

    Raises:
      UserError: it cannot be used.
    """
    poses = _array(skeleton, what)
    if layout is not None:
        return Sequence(*_of_layout(poses, what, mask, layout_named(layout), persons))
    poses, visible = read_poses(poses, what, mask, keep_masked=keep_masked)
    if not poses.any():
        raise UserError(f"{what} shows nobody: every joint of every frame is missing.")
    return Sequence(*leading_persons(poses, visible, persons))


def read_poses(
    poses: np.ndarray, what: str, mask: Any, *, keep_masked: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Checks poses (T, M, 25, 3) or (T, 25, 3), and returns which joints are visible, too.

    Returns:
      (T, M, 25, 3) float32, zeros where a joint is missing, and (T, M, 25) booleans.

    Raises:
      UserError: they cannot be used.
    """
    if poses.ndim == 3 and mask is not None and np.ndim(mask) > 1:
        mask = np.expand_dims(mask, -2)
    poses = poses[:, None] if poses.ndim == 3 else poses
    if poses.ndim != 4 or not poses.shape[1] or poses.shape[2:] != (JOINTS, COORDINATES):
        raise UserError(
            f"{what} has shape {poses.shape}; it must be (frames, persons, {JOINTS}, "
            f"{COORDINATES}) or, of one person, (frames, {JOINTS}, {COORDINATES})"
            f"{layouts_of(poses.shape[-2]) if poses.ndim == 4 else ''}."
        )
    if not len(poses):
        raise UserError(f"{what} is empty: it has no frames.")
    missing: np.ndarray = _mask(mask, poses.shape[:-1], what)
    with np.errstate(over="ignore"):  # overflow to infinity is rejected below
        poses = poses.astype(np.float32)
    finite = np.isfinite(poses).all(axis=-1)
    unknown = missing & ~finite if keep_masked else missing
    poses[unknown] = 0
    for flawed, flaw in (
        (~finite & ~unknown, "that is not finite; mark joints that are missing with the mask"),
        (np.abs(poses) > MAX_METRES, f"beyond {MAX_METRES:.0f}; skeletons are in metres"),
    ):
        if flawed.any():
            raise UserError(f"{what} has a coordinate in frame {np.argwhere(flawed)[0, 0]} {flaw}.")
    return poses, ~missing


def read_frame(
    frame: Any, what: str, mask: Any = None, layout: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Checks one frame (M, 25, 3) or (25, 3), or of the joints of a layout, which may be empty.

    Returns:
      Poses (1, M, 25, 3) in metres, zeros where a joint is missing or a person is absent, and which
      joints are visible, (1, M, 25).

    Raises:
      UserError: it cannot be used.
    """
    poses = _array(frame, what)
    joints = JOINTS if layout is None else len(layout_named(layout).joints)
    poses = poses[None] if poses.ndim == 2 else poses
    if poses.ndim != 3 or not len(poses) or poses.shape[1:] != (joints, COORDINATES):
        raise UserError(
            f"{what} has shape {poses.shape}; it must be (persons, {joints}, {COORDINATES}) or, of "
            f"one person, ({joints}, {COORDINATES})."
        )
    if layout is not None:
        lost = _mask(mask, poses.shape[:-1], what) | np.isnan(poses).any(axis=-1)
        there = np.asarray(poses.any(axis=(1, 2)))
        lost = lost | ~there[:, None]  # zeros of an absent person are no position
        poses = to_kinect_v2(np.where(lost[..., None], np.nan, poses), layout_named(layout))
        poses[(poses == 0).all(axis=-1)] = NANOMETRE
        lost = np.isnan(poses).any(axis=-1)
        poses = np.nan_to_num(poses)
        mask = lost & ~np.asarray(lost.all(axis=1))[:, None]
    return read_poses(poses[None], what, mask)


def _of_layout(
    array: np.ndarray, what: str, mask: Any, layout: Layout, persons: int
) -> tuple[np.ndarray, np.ndarray]:
    if mask is not None:
        array = np.where(_mask(mask, array.shape[:-1], what)[..., None], np.nan, array)
    try:
        poses = read_skeleton(array, layout)
    except ValueError as error:
        raise UserError(f"{what}: {error}.") from error
    missing = np.isnan(poses).any(axis=-1)
    return leading_persons(np.nan_to_num(poses), ~missing, persons)


def normalize(sequence: Sequence, normalization: Callable, what: str) -> Sequence:
    """Applies a function of `pcm3_jax.data.normalization` to a sequence with missing joints.

    Raises:
      UserError: the first person's spine is missing throughout.
    """
    moved = normalization is not no_normalization
    spine = sequence.poses[:, 0, SPINE]
    if moved and not (sequence.visible[:, 0, SPINE].all() or spine.any()):
        raise UserError(
            f"{what} lacks the first person's spine (joint {SPINE}) in every frame, so it "
            "cannot be centred; normalise it yourself and pass normalize=False."
        )
    return Sequence(*apply_around_missing(normalization, sequence.poses, sequence.visible))


def _array(value: Any, what: str) -> np.ndarray:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise UserError(f"{what} is not an array: {error}.") from None
    if array.dtype.kind not in "fiu":
        raise UserError(f"{what} has elements of type {array.dtype}; coordinates must be numbers.")
    return array


def _mask(mask: Any, shape: tuple[int, ...], what: str) -> np.ndarray:
    if mask is None:
        return np.zeros(shape, bool)
    array, name = np.asarray(mask), f"The mask of {what[0].lower()}{what[1:]}"
    if array.dtype != bool:
        raise UserError(
            f"{name} is of type {array.dtype}; it must be bool, True where a joint is missing."
        )
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise UserError(
            f"{name} has shape {array.shape}, which does not broadcast to {shape}."
        ) from None
