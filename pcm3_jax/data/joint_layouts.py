"""Mapping of other sensors' and models' skeletons to the 25 joints of Kinect v2, as tables.

A layout lists its joints in their published order and, for each joint of Kinect v2, the joints that
are averaged to give it: one, several, or none if the layout has no such joint. Missing joints are
NaN here and are not filled in.

Means are used only for joints that lie between others by definition. COCO, for instance, has no
joints of the spine, which normalisation and bones need, so they are means of hips and shoulders.

A user's own layout is a TOML file (docs/own_data.md); `layout_named` takes its path like a name.
"""

from __future__ import annotations

import functools
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pcm3_jax.errors import UserError
from pcm3_jax.runtime.files import opened, shown

# Kinect for Windows SDK 2.0, `JointType`.
KINECT_V2_JOINTS = (
    "spine_base", "spine_mid", "neck", "head",
    "shoulder_left", "elbow_left", "wrist_left", "hand_left",
    "shoulder_right", "elbow_right", "wrist_right", "hand_right",
    "hip_left", "knee_left", "ankle_left", "foot_left",
    "hip_right", "knee_right", "ankle_right", "foot_right",
    "spine_shoulder", "hand_tip_left", "thumb_left", "hand_tip_right", "thumb_right",
)  # fmt: skip
# Normalisation centres skeletons on one of these and aligns them with the axes by the others.
NEEDED = ("spine_base", "spine_mid", "shoulder_left", "shoulder_right")
_AXES = ("x", "y", "z")


class Layout(NamedTuple):
    """A joint layout.

    Attributes:
        joints: names of its J joints, in order.
        sources: for every joint of Kinect v2, the joints of this layout that are averaged to give
            it; empty if it is missing.
        axes: the layout's axes that give Kinect v2's x (to the sensor's left), y (up) and z (away
            from the sensor), each "x", "y" or "z", with a "-" before it if negated.
    """

    joints: tuple[str, ...]
    sources: dict[str, tuple[str, ...]]
    axes: tuple[str, ...] = _AXES

    @property
    def missing(self) -> tuple[int, ...]:
        """Indices of the joints of Kinect v2 that this layout does not have."""
        return tuple(i for i, name in enumerate(KINECT_V2_JOINTS) if not self.sources[name])


def _limbs(*, fingers: bool, hands: bool = True, feet: bool = True) -> dict[str, tuple[str, ...]]:
    """Sources of limb joints named as in Kinect v2; empty for those switched off."""
    lacking = {
        "hand_tip": not fingers, "thumb": not fingers, "hand": not hands, "foot": not feet
    }  # fmt: skip
    parts = ("shoulder", "elbow", "wrist", "hand", "hip", "knee", "ankle", "foot")
    return {
        name: () if lacking.get(part) else (name,)
        for part in (*parts, "hand_tip", "thumb")
        for name in (f"{part}_left", f"{part}_right")
    }


def _sides_first(sources: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """The same sources for layouts that name joints "left_hip" instead of "hip_left"."""
    return {
        target: tuple("_".join(reversed(name.rsplit("_", 1))) for name in names)
        for target, names in sources.items()
    }


LAYOUTS = {
    "kinect_v2_25": Layout(KINECT_V2_JOINTS, {name: (name,) for name in KINECT_V2_JOINTS}),
    # Kinect for Windows SDK 1.8, `JointType`.
    "kinect_v1_20": Layout(
        (
            "hip_center", "spine", "shoulder_center", "head",
            "shoulder_left", "elbow_left", "wrist_left", "hand_left",
            "shoulder_right", "elbow_right", "wrist_right", "hand_right",
            "hip_left", "knee_left", "ankle_left", "foot_left",
            "hip_right", "knee_right", "ankle_right", "foot_right",
        ),
        {
            "spine_base": ("hip_center",),
            "spine_mid": ("spine",),
            "spine_shoulder": ("shoulder_center",),
            "neck": (),
            "head": ("head",),
            **_limbs(fingers=False),
        },
    ),
    # Azure Kinect Body Tracking SDK 1.1, `k4abt_joint_id_t`.
    "azure_kinect_32": Layout(
        (
            "pelvis", "spine_navel", "spine_chest", "neck",
            "clavicle_left", "shoulder_left", "elbow_left", "wrist_left", "hand_left",
            "hand_tip_left", "thumb_left",
            "clavicle_right", "shoulder_right", "elbow_right", "wrist_right", "hand_right",
            "hand_tip_right", "thumb_right",
            "hip_left", "knee_left", "ankle_left", "foot_left",
            "hip_right", "knee_right", "ankle_right", "foot_right",
            "head", "nose", "eye_left", "ear_left", "eye_right", "ear_right",
        ),
        {
            "spine_base": ("pelvis",),
            "spine_mid": ("spine_navel",),
            # The joint where the arms branch off the spine; it lies lower than Kinect v2's.
            "spine_shoulder": ("spine_chest",),
            "neck": ("neck",),
            "head": ("head",),
            **_limbs(fingers=True),
        },
        # x to the right, y down.
        ("-x", "-y", "z"),
    ),
    # COCO's person keypoints, lifted to three dimensions.
    "coco_17": Layout(
        (
            "nose", "left_eye", "right_eye", "left_ear", "right_ear",
            "left_shoulder", "right_shoulder", "left_elbow", "right_elbow",
            "left_wrist", "right_wrist", "left_hip", "right_hip",
            "left_knee", "right_knee", "left_ankle", "right_ankle",
        ),
        {
            "spine_base": ("left_hip", "right_hip"),
            "spine_mid": ("left_hip", "right_hip", "left_shoulder", "right_shoulder"),
            "spine_shoulder": ("left_shoulder", "right_shoulder"),
            "neck": (),
            "head": ("left_ear", "right_ear"),
            **_sides_first(_limbs(fingers=False, hands=False, feet=False)),
        },
    ),
    # The joints of the SMPL body model, in the order of its kinematic tree.
    "smpl_24": Layout(
        (
            "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2",
            "left_ankle", "right_ankle", "spine3", "left_foot", "right_foot", "neck",
            "left_collar", "right_collar", "head", "left_shoulder", "right_shoulder",
            "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hand", "right_hand",
        ),
        {
            "spine_base": ("pelvis",),
            "spine_mid": ("spine2",),
            "spine_shoulder": ("spine3",),
            "neck": ("neck",),
            "head": ("head",),
            **_sides_first(_limbs(fingers=False)),
        },
    ),
    # Human3.6M's 17 joints, as lifting networks (VideoPose3D, MotionBERT) order them.
    "h36m_17": Layout(
        (
            "hip", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
            "spine", "thorax", "neck_nose", "head",
            "left_shoulder", "left_elbow", "left_wrist",
            "right_shoulder", "right_elbow", "right_wrist",
        ),
        {
            "spine_base": ("hip",),
            "spine_mid": ("spine",),
            "spine_shoulder": ("thorax",),
            "neck": ("neck_nose",),
            "head": ("head",),
            **_sides_first(_limbs(fingers=False, hands=False, feet=False)),
        },
    ),
    # BlazePose's world landmarks, as MediaPipe Pose numbers them.
    "mediapipe_33": Layout(
        (
            "nose", "left_eye_inner", "left_eye", "left_eye_outer",
            "right_eye_inner", "right_eye", "right_eye_outer", "left_ear", "right_ear",
            "mouth_left", "mouth_right", "left_shoulder", "right_shoulder",
            "left_elbow", "right_elbow", "left_wrist", "right_wrist",
            "left_pinky", "right_pinky", "left_index", "right_index", "left_thumb", "right_thumb",
            "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
            "left_heel", "right_heel", "left_foot_index", "right_foot_index",
        ),
        {
            "spine_base": ("left_hip", "right_hip"),
            "spine_mid": ("left_hip", "right_hip", "left_shoulder", "right_shoulder"),
            "spine_shoulder": ("left_shoulder", "right_shoulder"),
            "neck": (),
            "head": ("left_ear", "right_ear"),
            **_sides_first(_limbs(fingers=False)),
            # The middle of the palm; index and pinky are the knuckles where these fingers begin.
            "hand_left": ("left_wrist", "left_index", "left_pinky"),
            "hand_right": ("right_wrist", "right_index", "right_pinky"),
            "thumb_left": ("left_thumb",),
            "thumb_right": ("right_thumb",),
            "foot_left": ("left_foot_index",),
            "foot_right": ("right_foot_index",),
        },
        # x to the right, y down.
        ("-x", "-y", "z"),
    ),
    # OpenPose's BODY_25, lifted to three dimensions.
    "openpose_25": Layout(
        (
            "nose", "neck", "right_shoulder", "right_elbow", "right_wrist",
            "left_shoulder", "left_elbow", "left_wrist", "mid_hip",
            "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
            "right_eye", "left_eye", "right_ear", "left_ear",
            "left_big_toe", "left_small_toe", "left_heel",
            "right_big_toe", "right_small_toe", "right_heel",
        ),
        {
            "spine_base": ("mid_hip",),
            "spine_mid": ("mid_hip", "neck"),
            # OpenPose's neck is the middle of the shoulders.
            "spine_shoulder": ("neck",),
            "neck": (),
            "head": ("left_ear", "right_ear"),
            **_sides_first(_limbs(fingers=False, hands=False)),
            "foot_left": ("left_big_toe",),
            "foot_right": ("right_big_toe",),
        },
    ),
}  # fmt: skip


def _flaw(layout: Layout) -> str | None:
    """What is wrong with a layout's table, as one clause, or None."""
    twice = [name for name in layout.joints if layout.joints.count(name) > 1]
    if twice:
        return f"the joint {twice[0]!r} is listed twice"
    for target, sources in layout.sources.items():
        if target not in KINECT_V2_JOINTS:
            known = ", ".join(KINECT_V2_JOINTS)
            return f"Kinect v2 has no joint {target!r}, but {known}"
        for source in sources:
            if source not in layout.joints:
                return f"{target} is made of {source!r}, which is not among the joints"
    for name in NEEDED:
        if not layout.sources.get(name):
            return (
                f"{name} is missing, which normalisation needs; give a mean of other joints if "
                "there is no such joint"
            )
    if sorted(axis.removeprefix("-") for axis in layout.axes) != list(_AXES):
        return f"axes are {list(layout.axes)} where x, y and z, or -x, -y, -z, were expected"
    return None


for _name, _layout in LAYOUTS.items():
    if _layout.sources.keys() != set(KINECT_V2_JOINTS) or _flaw(_layout):
        raise ValueError(f"joint layout {_name!r}: {_flaw(_layout) or 'its table has gaps'}")


def layout_named(name: str) -> Layout:
    """The layout of a name, or of a TOML file.

    Args:
        name: a key of `LAYOUTS`, or a path that ends in .toml.

    Raises:
        UserError: there is no such layout, or the file cannot be read or has a flaw.

    Example:
        layout_named("coco_17")
        layout_named("own/layout.toml")
    """
    if name in LAYOUTS:
        return LAYOUTS[name]
    if not name.endswith(".toml"):
        raise UserError(
            f"there is no joint layout {name!r}; use one of {', '.join(LAYOUTS)}, or a .toml file "
            "(docs/own_data.md)."
        )
    try:
        with opened(Path(name)) as file:
            content = file.read()
    except OSError as error:
        raise UserError(f"{shown(name)} cannot be read: {error.strerror or error}.") from error
    return parse_layout(content, name)


# Live frames name their layout each; the content is compared, so that a changed file is read anew.
@functools.lru_cache(maxsize=8)
def parse_layout(content: bytes, file: str) -> Layout:
    """Parses a joint layout in TOML.

    It has the list `joints`, the names of the joints in the order of the arrays; the table
    `kinect_v2`, which gives for joints of Kinect v2 the name of a joint, or a list of names that
    are averaged; and optionally the list `axes`, as in `Layout`.

    Args:
        content: the bytes of the file.
        file: where it is, for messages.

    Raises:
        UserError: names the file and its first flaw.
    """
    try:
        table = tomllib.loads(content.decode("utf-8-sig"))
        layout = _layout_of(table)
        flaw = _flaw(layout)
    except UnicodeDecodeError:
        flaw = "it is not text in UTF-8"
    except tomllib.TOMLDecodeError as error:
        flaw = f"it is not TOML: {error}"
    except RecursionError:
        flaw = "it is nested too deeply"
    except ValueError as error:
        flaw = str(error)
    if flaw:
        raise UserError(f"{shown(file)} is no joint layout: {flaw}.")
    return layout


def _layout_of(table: dict[str, Any]) -> Layout:
    """The layout of a parsed TOML file; raises ValueError for values of a wrong type."""
    unknown = sorted(table.keys() - {"joints", "kinect_v2", "axes"})
    if unknown:
        raise ValueError(f"found {unknown[0]!r} where joints, kinect_v2 or axes was expected")
    joints, axes = (_names(table.get(key, default), key)
                    for key, default in (("joints", []), ("axes", list(_AXES))))  # fmt: skip
    sources = table.get("kinect_v2", {})
    if not isinstance(sources, dict):
        raise ValueError("kinect_v2 is not a table, [kinect_v2]")
    # A single joint need not be in a list.
    listed = {k: [v] if isinstance(v, str) else v for k, v in sources.items()}
    given = {k: _names(v, shown(f"kinect_v2.{k}")) for k, v in listed.items()}
    return Layout(joints, dict.fromkeys(KINECT_V2_JOINTS, ()) | given, axes)


def _names(value: Any, what: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{what} is not a list of names in quotes")
    return tuple(value)


def layouts_of(joints: int) -> str:
    """The layouts of so many joints, as the end of an error; empty if there is none."""
    names = [name for name, layout in LAYOUTS.items() if len(layout.joints) == joints]
    if not names:
        return ""
    return f"; {joints} joints are those of {' or '.join(names)} (--layout; in a build, the config)"


def to_kinect_v2(skeleton: np.ndarray, layout: Layout) -> np.ndarray:
    """Converts skeletons to the joints of Kinect v2.

    Args:
        skeleton: (..., J, 3) coordinates of the layout's J joints, NaN where one is missing.
        layout: the joint layout of ``skeleton``.

    Returns:
        (..., 25, 3) float32 in the same units and in Kinect v2's axes, if the layout says how its
        own differ; NaN where the layout has no such joint or a joint that it is computed from is
        missing.

    Example:
        poses = to_kinect_v2(keypoints, layout_named("coco_17"))  # (T, 17, 3) → (T, 25, 3)
    """
    found = np.full((*skeleton.shape[:-2], len(KINECT_V2_JOINTS), 3), np.nan, np.float32)
    for target, name in enumerate(KINECT_V2_JOINTS):
        sources = [layout.joints.index(source) for source in layout.sources[name]]
        if sources:
            found[..., target, :] = skeleton[..., sources, :].mean(axis=-2)
    if layout.axes == _AXES:
        return found
    sign = np.array([-1 if "-" in axis else 1 for axis in layout.axes], np.float32)
    return found[..., [_AXES.index(axis[-1]) for axis in layout.axes]] * sign
