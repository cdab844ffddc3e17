"""Sequences in arrays of any joint layout: checked, and given in Kinect v2's joints."""

from __future__ import annotations

import numpy as np

from pcm3_jax.data.joint_layouts import Layout, to_kinect_v2
from pcm3_jax.data.normalization import MAX_METRES, SPINE

_NANOMETRE = np.float32(1e-9)


def read_skeleton(array: np.ndarray, layout: Layout) -> np.ndarray:
    """Checks a sequence of any layout and gives it in Kinect v2's joints.

    Args:
        array: (T, J, 3) or, with one or two persons, (T, M, J, 3); metres. A missing joint is NaN;
            a person who is absent from a frame is all NaN or all zeros there.
        layout: how the joints are laid out.

    Returns:
        (T, M, 25, 3) float32: NaN where a joint is missing, zeros where a person is absent.

    Raises:
        ValueError: what was found and what was expected, as one clause.
    """
    if array.dtype.kind not in "fiu":
        raise ValueError(f"found elements of type {array.dtype} where numbers were expected")
    joints = len(layout.joints)
    poses = array[:, None] if array.ndim == 3 else array
    if poses.ndim != 4 or not 1 <= poses.shape[1] <= 2 or poses.shape[2:] != (joints, 3):
        raise ValueError(
            f"found an array of shape {array.shape} where (frames, {joints}, 3) or (frames, 1 or "
            f"2 persons, {joints}, 3) was expected"
        )
    if not len(poses):
        raise ValueError("found no frames where a sequence was expected")
    with np.errstate(over="ignore"):  # infinite in float32: refused below
        poses = poses.astype(np.float32)
    missing = np.isnan(poses)
    for flawed, found, expected in (
        (
            missing.any(axis=-1) != missing.all(axis=-1),
            "NaN beside a number",
            "x, y, z or three NaN",
        ),
        (np.abs(poses) > MAX_METRES, "a coordinate beyond 100", "metres"),
    ):
        if flawed.any():
            raise ValueError(
                f"found {found} {_place(flawed, layout)} where {expected} was expected"
            )
    absent = (missing | (poses == 0)).all(axis=(2, 3))
    poses[absent] = np.nan
    _refuse_ambiguous_zeros(poses, layout)
    if absent.all():
        raise ValueError("found no joint of any person in any frame where skeletons were expected")
    skeletons = to_kinect_v2(poses, layout)
    if np.isnan(skeletons[:, 0, SPINE]).all():
        raise ValueError(
            "found no frame in which the first person has all joints of the spine's middle "
            f"({', '.join(layout.sources['spine_mid'])}), on which skeletons are centred"
        )
    # Further on an exact zero is a missing joint; these are places.
    skeletons[(skeletons == 0).all(axis=-1)] = _NANOMETRE
    skeletons[absent] = 0
    return skeletons


def _refuse_ambiguous_zeros(poses: np.ndarray, layout: Layout) -> None:
    """Raises ValueError for zeros that may be places or missing joints.

    Skeletons that are centred on a joint have that one at the origin in every frame; any other
    joint there is likely to stand for a missing one.
    """
    for person in poses.swapaxes(0, 1):
        there = ~np.isnan(person).all(axis=(1, 2))
        at_origin = (person == 0).all(axis=-1)
        centre = at_origin[there].all(axis=0) & (at_origin.any(axis=0).sum() == 1)
        flawed = at_origin & ~centre
        if flawed.any():
            raise ValueError(
                f"found exact zeros {_place(flawed, layout)} where a place was expected, or NaN "
                "for a missing joint"
            )


def _place(flawed: np.ndarray, layout: Layout) -> str:
    """Frame and joint of the first flaw in (T, J) or (T, M, J, ...) booleans."""
    at = np.argwhere(flawed)[0]
    joint = at[1] if flawed.ndim == 2 else at[2]
    return f"in frame {at[0]} at joint {joint} ({layout.joints[joint]})"
