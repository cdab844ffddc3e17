"""The tables of joint layouts: complete, in published order, and left-right symmetric."""

import numpy as np
import pytest

from pcm3_jax.data import joint_layouts
from pcm3_jax.data.joint_layouts import KINECT_V2_JOINTS, LAYOUTS
from pcm3_jax.errors import UserError

# Some joints of each layout by their published numbers.
PUBLISHED = {
    "kinect_v2_25": {0: "spine_base", 2: "neck", 8: "shoulder_right", 20: "spine_shoulder",
                     22: "thumb_left", 23: "hand_tip_right"},
    "kinect_v1_20": {0: "hip_center", 3: "head", 7: "hand_left", 12: "hip_left", 19: "foot_right"},
    "azure_kinect_32": {2: "spine_chest", 4: "clavicle_left", 10: "thumb_left",
                        11: "clavicle_right", 18: "hip_left", 26: "head", 28: "eye_left",
                        29: "ear_left", 30: "eye_right", 31: "ear_right"},
    "coco_17": {0: "nose", 5: "left_shoulder", 11: "left_hip", 16: "right_ankle"},
    "smpl_24": {3: "spine1", 6: "spine2", 9: "spine3", 12: "neck", 15: "head",
                16: "left_shoulder", 23: "right_hand"},
}  # fmt: skip
MISSING = {
    "kinect_v2_25": [],
    "kinect_v1_20": [2, 21, 22, 23, 24],
    "azure_kinect_32": [],
    "coco_17": [2, 7, 11, 15, 19, 21, 22, 23, 24],
    "smpl_24": [21, 22, 23, 24],
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_tables_are_complete_and_in_published_order(name):
    layout = LAYOUTS[name]
    assert len(layout.joints) == len(set(layout.joints)) == int(name.rpartition("_")[2])
    for index, joint in PUBLISHED[name].items():
        assert layout.joints[index] == joint
    assert layout.sources.keys() == set(KINECT_V2_JOINTS)
    assert {s for names in layout.sources.values() for s in names} <= set(layout.joints)
    assert list(layout.missing) == MISSING[name]
    for target, names in layout.sources.items():
        # Only COCO, which has no spine, declares means.
        assert len(names) <= 1 or name == "coco_17" and target in (
            "spine_base", "spine_mid", "spine_shoulder", "head"
        )  # fmt: skip


def other_side(name):
    return name.replace("left", "LEFT").replace("right", "left").replace(
        "LEFT", "right"
    )  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_left_and_right_are_mirrored(name):
    for target, sources in LAYOUTS[name].sources.items():
        mirrored = {other_side(source) for source in sources}
        assert set(LAYOUTS[name].sources[other_side(target)]) == mirrored
        side = target.rpartition("_")[2]
        if side in ("left", "right"):
            assert all(side in source for source in sources)


def test_joints_are_copied_or_averaged():
    coco = LAYOUTS["coco_17"]
    poses = np.random.default_rng(0).normal(size=(4, 2, 17, 3)).astype(np.float32)
    poses[1, 0, coco.joints.index("left_hip")] = np.nan
    found = joint_layouts.to_kinect_v2(poses, coco)
    assert found.shape == (4, 2, 25, 3) and found.dtype == np.float32
    at = KINECT_V2_JOINTS.index
    np.testing.assert_array_equal(found[..., at("wrist_right"), :], poses[..., 10, :])
    middle = (poses[..., 11, :] + poses[..., 12, :]) / 2
    np.testing.assert_allclose(found[..., at("spine_base"), :], middle, rtol=1e-6)
    lost = [at(name) for name in ("spine_base", "spine_mid", "hip_left")]
    missing = np.isnan(found).any(axis=-1)
    assert sorted(np.flatnonzero(missing[1, 0])) == sorted([*lost, *coco.missing])
    assert sorted(np.flatnonzero(missing[0, 0])) == sorted(coco.missing)


def test_an_unknown_layout_is_an_error():
    with pytest.raises(UserError, match="no joint layout 'kinect'; use one of kinect_v2_25, "):
        joint_layouts.layout_named("kinect")
