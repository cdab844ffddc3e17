"""Sequences in NumPy's array files: read safely, checked, and converted to Kinect v2's joints."""

from __future__ import annotations

import zipfile
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from pcm3_jax.data.joint_layouts import KINECT_V2_JOINTS, Layout, layouts_of, to_kinect_v2
from pcm3_jax.data.normalization import MAX_METRES, NANOMETRE, SPINE, leading_persons
from pcm3_jax.runtime.files import opened

_LARGEST = 2**31
# Least cosine, in size, of feet with the direction that tells whether a skeleton is mirrored.
_TELLING = 0.3


def read_arrays(file: Path | BinaryIO) -> dict[str, np.ndarray]:
    """The array of a ``.npy`` file, under the name "", or those of a ``.npz`` file by name.

    Nothing in the file is executed.

    Raises:
        ValueError: the file has no usable arrays; the message is one clause with the reason.
    """
    try:
        with opened(file) if isinstance(file, Path) else nullcontext(file) as content:
            if content.read(2) == b"PK":
                entries = zipfile.ZipFile(content).infolist()
                if sum(entry.file_size for entry in entries) > _LARGEST:
                    raise ValueError("its contents are larger than 2 GB")
            content.seek(0)
        # Memory-mapping fails if the header declares more data than the file has.
        mode: Literal["r"] | None = "r" if isinstance(file, Path) else None
        loaded = np.load(file, mmap_mode=mode, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"": loaded}
        with loaded:
            arrays = {name: loaded[name] for name in loaded.files}
        # np.load returns members that are not arrays as bytes.
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("it has members that are not arrays")
        return arrays
    except OSError:
        raise
    except Exception as error:  # damaged headers can raise anything
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        raise ValueError(f"holds no usable arrays: {reason[:120]}") from error


def read_skeleton(array: np.ndarray, layout: Layout) -> np.ndarray:
    """Checks a sequence of any layout and converts it to Kinect v2's joints.

    Args:
        array: (T, J, 3) or, with M persons, (T, M, J, 3); metres. A missing joint is NaN; a person
            who is absent from a frame is all NaN or all zeros there.
        layout: the joints of `array`.

    Returns:
        (T, 2, 25, 3) float32, the persons of `leading_persons`: NaN where a joint is missing, zeros
        where a person is absent.

    Raises:
        ValueError: what was found and what was expected, as one clause.
    """
    if array.dtype.kind not in "fiu":
        raise ValueError(f"found elements of type {array.dtype} where numbers were expected")
    joints = len(layout.joints)
    poses = array[:, None] if array.ndim == 3 else array
    if poses.ndim != 4 or not poses.shape[1] or poses.shape[2:] != (joints, 3):
        raise ValueError(
            f"found an array of shape {array.shape} where (frames, {joints}, 3) or (frames, "
            f"persons, {joints}, 3) was expected{_other_layouts(poses.shape, joints)}"
        )
    if not len(poses):
        raise ValueError("found no frames where a sequence was expected")
    with np.errstate(over="ignore"):  # overflow to infinity is rejected below
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
    # Later stages treat an exact zero as a missing joint, so joints at the origin are moved.
    skeletons[(skeletons == 0).all(axis=-1)] = NANOMETRE
    skeletons[absent] = 0
    known, visible = leading_persons(np.nan_to_num(skeletons), ~np.isnan(skeletons[..., 0]), 2)
    if not known[:, 0, SPINE].any():
        raise ValueError(
            "found no frame in which the first person has all joints of the spine's middle "
            f"({', '.join(layout.sources['spine_mid'])}), on which skeletons are centred"
        )
    return np.where(visible[..., None], known, np.float32(np.nan))


def _other_layouts(shape: tuple[int, ...], joints: int) -> str:
    """Advice for an array of another number of joints than was expected."""
    other = len(shape) == 4 and shape[3] == 3 and shape[2] != joints
    return layouts_of(shape[2]) if other else ""


def _refuse_ambiguous_zeros(poses: np.ndarray, layout: Layout) -> None:
    """Raises ValueError for zeros that may be positions or missing joints.

    In skeletons centred on a joint, that joint is at the origin in every frame; any other joint at
    the origin is probably a missing one.
    """
    for person in poses.swapaxes(0, 1):
        there = ~np.isnan(person).all(axis=(1, 2))
        at_origin = (person == 0).all(axis=-1)
        centre = at_origin[there].all(axis=0) & (at_origin.any(axis=0).sum() == 1)
        flawed = at_origin & ~centre
        if flawed.any():
            raise ValueError(
                f"found exact zeros {_place(flawed, layout)} where a position was expected, or NaN "
                "for a missing joint"
            )


def _place(flawed: np.ndarray, layout: Layout) -> str:
    """Frame and joint of the first flaw in (T, J) or (T, M, J, ...) booleans."""
    at = np.argwhere(flawed)[0]
    joint = at[1] if flawed.ndim == 2 else at[2]
    return f"in frame {at[0]} at joint {joint} ({layout.joints[joint]})"


def seems_mirrored(skeleton: np.ndarray) -> bool | None:
    """Whether the first person's feet point backwards in most frames, as in left-handed axes.

    The cross product of up (from the hips to the shoulders) and right (from shoulder to shoulder)
    points forwards in right-handed axes and backwards in left-handed ones, whichever way is up. In
    layouts without feet forearms are used.

    Args:
        skeleton: (T, M, 25, 3), NaN where a joint is missing, zeros where a person is absent.

    Returns:
        None if joints are missing or hardly point forwards or backwards, as arms that hang.
    """
    at = dict(zip(KINECT_V2_JOINTS, skeleton[:, 0].swapaxes(0, 1), strict=True))
    right = at["shoulder_right"] - at["shoulder_left"]
    up = at["shoulder_left"] + at["shoulder_right"] - at["hip_left"] - at["hip_right"]
    feet, forearms = (
        sum(at[f"{tip}_{side}"] - at[f"{root}_{side}"] for side in ("left", "right"))
        for root, tip in (("ankle", "foot"), ("elbow", "wrist"))
    )
    pointing = forearms if np.isnan(feet).all() else feet
    forwards = np.cross(up, right)
    lengths = np.linalg.norm(forwards, axis=-1) * np.linalg.norm(pointing, axis=-1)
    known = lengths > 0  # False for NaN
    cosines = (forwards * pointing).sum(axis=-1)[known] / lengths[known]
    middle = np.median(cosines) if len(cosines) else 0.0
    return bool(middle < 0) if abs(middle) > _TELLING else None
