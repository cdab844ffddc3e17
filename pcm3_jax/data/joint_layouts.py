"""Mapping of other sensors' and models' skeletons to the 25 joints of Kinect v2, as tables.

A layout lists its joints in their published order and, for each joint of Kinect v2, the joints that
are averaged to give it: one, several, or none if the layout has no such joint. Missing joints are
NaN here and are not filled in.

Means are used only for joints that lie between others by definition. COCO, for instance, has no
joints of the spine, which normalisation and bones need, so they are means of hips and shoulders.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pcm3_jax.errors import UserError

# Kinect for Windows SDK 2.0, `JointType`.
KINECT_V2_JOINTS = (
    "spine_base", "spine_mid", "neck", "head",
    "shoulder_left", "elbow_left", "wrist_left", "hand_left",
    "shoulder_right", "elbow_right", "wrist_right", "hand_right",
    "hip_left", "knee_left", "ankle_left", "foot_left",
    "hip_right", "knee_right", "ankle_right", "foot_right",
    "spine_shoulder", "hand_tip_left", "thumb_left", "hand_tip_right", "thumb_right",
)  # fmt: skip


class Layout(NamedTuple):
    """A joint layout.

    Attributes:
        joints: names of its J joints, in order.
        sources: for every joint of Kinect v2, the joints of this layout that are averaged to give
            it; empty if it is missing.
    """

    joints: tuple[str, ...]
    sources: dict[str, tuple[str, ...]]

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
}  # fmt: skip


for _name, _layout in LAYOUTS.items():
    _named = {source for sources in _layout.sources.values() for source in sources}
    _odd = (_layout.sources.keys() ^ set(KINECT_V2_JOINTS)) | (_named - set(_layout.joints))
    if _odd:
        raise ValueError(f"joint layout {_name!r} has unknown or undeclared joints {sorted(_odd)}")


def layout_named(name: str) -> Layout:
    """Looks up a layout by name.

    Raises:
        UserError: no layout has this name.
    """
    if name not in LAYOUTS:
        raise UserError(f"there is no joint layout {name!r}; use one of {', '.join(LAYOUTS)}.")
    return LAYOUTS[name]


def to_kinect_v2(skeleton: np.ndarray, layout: Layout) -> np.ndarray:
    """Converts skeletons to the joints of Kinect v2.

    Args:
        skeleton: (..., J, 3) coordinates of the layout's J joints, NaN where one is missing.
        layout: the joint layout of ``skeleton``.

    Returns:
        (..., 25, 3) float32 in the same units and axes; NaN where the layout has no such joint or
        a joint that it is computed from is missing.

    Example:
        poses = to_kinect_v2(keypoints, layout_named("coco_17"))  # (T, 17, 3) → (T, 25, 3)
    """
    found = np.full((*skeleton.shape[:-2], len(KINECT_V2_JOINTS), 3), np.nan, np.float32)
    for target, name in enumerate(KINECT_V2_JOINTS):
        sources = [layout.joints.index(source) for source in layout.sources[name]]
        if sources:
            found[..., target, :] = skeleton[..., sources, :].mean(axis=-2)
    return found
