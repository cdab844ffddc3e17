"""Checks and normalises the skeletons that users pass, in which joints may be missing.

A mask marks missing joints with True.  A network sees zeros for them, as for joints that the sensor
lost; they are not filled in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from pcm3_jax.data.formats.arrays import read_skeleton
from pcm3_jax.data.joint_layouts import Layout, layout_named
from pcm3_jax.data.normalization import MAX_METRES, SPINE, apply_around_missing, no_normalization
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


def read_sequences(
    skeletons: Any, mask: Any = None, *, keep_masked: bool = False, layout: str | None = None
) -> list[Sequence]:
    """Checks the skeletons and the mask that a caller passes.

    Args:
      skeletons: (N, T, M, 25, 3) or (T, M, 25, 3) with M = 1 or 2, or a list of N arrays
        (T, M, 25, 3) of any lengths; metres.
      mask: None, or booleans that broadcast to the skeletons without their last axis, True where
        a joint is missing; for a list of skeletons also a list of N masks.
      keep_masked: whether to keep finite coordinates of masked joints.
      layout: None, or a name of `pcm3_jax.data.joint_layouts`: the skeletons have its joints, and
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
        read_sequence(array, f"Sequence {i}", part, keep_masked=keep_masked, layout=layout)
        for i, (array, part) in enumerate(zip(skeletons, masks, strict=True))
    ]


def read_sequence(
    skeleton: Any,
    what: str,
    mask: Any = None,
    *,
    keep_masked: bool = False,
    may_be_empty: bool = False,
    layout: str | None = None,
) -> Sequence:
    """Checks one sequence (T, M, 25, 3); ``what`` names it in messages.

    Raises:
      UserError: it cannot be used.
    """
    poses = _array(skeleton, what)
    if layout is not None:
        return _of_layout(poses, what, mask, layout_named(layout))
    if poses.ndim != 4 or not 1 <= poses.shape[1] <= PERSONS or poses.shape[2:] != (25, 3):
        raise UserError(
            f"{what} has shape {poses.shape}; it must be (frames, persons, {JOINTS}, "
            f"{COORDINATES}) with 1 or {PERSONS} persons."
        )
    if not len(poses):
        raise UserError(f"{what} is empty: it has no frames.")
    missing = _mask(mask, poses.shape[:-1], what)
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
    if not (poses.any() or may_be_empty):
        raise UserError(f"{what} shows nobody: every joint of every frame is missing.")
    return _of_two_persons(poses, ~missing)


def _of_layout(array: np.ndarray, what: str, mask: Any, layout: Layout) -> Sequence:
    if mask is not None:
        array = np.where(_mask(mask, array.shape[:-1], what)[..., None], np.nan, array)
    try:
        poses = read_skeleton(array, layout)
    except ValueError as error:
        raise UserError(f"{what}: {error}.") from error
    missing = np.isnan(poses).any(axis=-1)
    return _of_two_persons(np.nan_to_num(poses), ~missing)


def _of_two_persons(poses: np.ndarray, visible: np.ndarray) -> Sequence:
    absent = ((0, 0), (0, PERSONS - poses.shape[1]), (0, 0))
    return Sequence(np.pad(poses, (*absent, (0, 0))), np.pad(visible, absent, constant_values=True))


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
