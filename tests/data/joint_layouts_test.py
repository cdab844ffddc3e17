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
    "h36m_17": {0: "hip", 1: "right_hip", 6: "left_ankle", 7: "spine", 10: "head",
                11: "left_shoulder", 16: "right_wrist"},
    "mediapipe_33": {0: "nose", 7: "left_ear", 11: "left_shoulder", 16: "right_wrist",
                     21: "left_thumb", 23: "left_hip", 28: "right_ankle", 31: "left_foot_index"},
    "openpose_25": {1: "neck", 2: "right_shoulder", 8: "mid_hip", 12: "left_hip", 18: "left_ear",
                    19: "left_big_toe", 24: "right_heel"},
}  # fmt: skip
MISSING = {
    "kinect_v2_25": [],
    "kinect_v1_20": [2, 21, 22, 23, 24],
    "azure_kinect_32": [],
    "coco_17": [2, 7, 11, 15, 19, 21, 22, 23, 24],
    "smpl_24": [21, 22, 23, 24],
    "h36m_17": [7, 11, 15, 19, 21, 22, 23, 24],
    "mediapipe_33": [2, 21, 23],
    "openpose_25": [2, 7, 11, 21, 22, 23, 24],
}
# Joints that a layout defines as means of others.
MEANS = {
    "coco_17": {"spine_base", "spine_mid", "spine_shoulder", "head"},
    "mediapipe_33": {
        "spine_base",
        "spine_mid",
        "spine_shoulder",
        "head",
        "hand_left",
        "hand_right",
    },
    "openpose_25": {"spine_mid", "head"},
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
    means = {target for target, names in layout.sources.items() if len(names) > 1}
    assert means == MEANS.get(name, set())


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


@pytest.mark.parametrize("name", ["mediapipe_33", "azure_kinect_32"])
def test_axes_become_those_of_kinect(name):
    """Both look along z with x to the right and y down; Kinect v2 has x to the left and y up."""
    layout = LAYOUTS[name]
    poses = np.random.default_rng(0).normal(size=(4, len(layout.joints), 3)).astype(np.float32)
    (hip,) = layout.sources["hip_left"]
    found = joint_layouts.to_kinect_v2(poses, layout)[:, KINECT_V2_JOINTS.index("hip_left")]
    np.testing.assert_array_equal(found, poses[:, layout.joints.index(hip)] * [-1, -1, 1])


OWN = """
joints = ["pelvis", "chest", "head", "l_shoulder", "r_shoulder"]
axes = ["z", "x", "y"]
[kinect_v2]
spine_base = "pelvis"
spine_mid = ["pelvis", "chest"]
shoulder_left = "l_shoulder"
shoulder_right = ["r_shoulder"]
"""


def test_a_toml_file_is_a_layout(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xef\xbb\xbf" + OWN.encode())
    layout = joint_layouts.layout_named(str(path))
    assert layout.joints == ("pelvis", "chest", "head", "l_shoulder", "r_shoulder")
    assert layout.sources["shoulder_right"] == ("r_shoulder",) and not layout.sources["head"]
    assert len(layout.missing) == 21
    poses = np.arange(15, dtype=np.float32).reshape(1, 5, 3)
    found = joint_layouts.to_kinect_v2(poses, layout)
    np.testing.assert_array_equal(found[0, :2], [[2, 0, 1], [3.5, 1.5, 2.5]])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"pelvis"\n', '"hips"\n', "spine_base is made of 'hips', which is not among the joints"),
        ("spine_mid =", "spine =", "Kinect v2 has no joint 'spine', but spine_base, spine_mid"),
        ('spine_mid = ["pelvis", "chest"]', "", "spine_mid is missing, which normalisation needs"),
        ("shoulder_left =", "hip_left =", "shoulder_left is missing"),
        ('["r_shoulder"]', "4", "kinect_v2.shoulder_right is not a list of names in quotes"),
        ('["r_shoulder"]', "[4]", "kinect_v2.shoulder_right is not a list of names"),
        ('"head"', '"chest"', "the joint 'chest' is listed twice"),
        ('joints = ["pelvis"', 'joints = [["pelvis"]', "joints is not a list of names"),
        ("joints", "bones", "found 'bones' where joints, kinect_v2 or axes was expected"),
        (OWN[OWN.index("axes") :], "kinect_v2 = 3", "kinect_v2 is not a table"),
        ("shoulder_left =", '"a\\nb" = 3\nshoulder_left =', "is not a list of names"),
        ('["z", "x", "y"]', '["z", "x", "x"]', "axes are ['z', 'x', 'x'] where x, y and z"),
        ('["z", "x", "y"]', '["--z", "x", "y"]', "axes are"),
        ("[kinect_v2]", "[kinect_v2", "it is not TOML: "),
        ("[kinect_v2]", "\udcff", "it is not text in UTF-8"),
        ('["r_shoulder"]', "[" * 100_000, "nested"),
    ],
)
def test_a_flawed_toml_file_is_one_sentence(tmp_path, old, new, message):
    path = tmp_path / "mine.toml"
    path.write_bytes(OWN.replace(old, new, 1).encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match="mine.toml is no joint layout: ") as error:
        joint_layouts.layout_named(str(path))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_an_unknown_layout_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no joint layout 'kinect'; use one of kinect_v2_25, "):
        joint_layouts.layout_named("kinect")
    with pytest.raises(UserError, match="none.toml cannot be read: No such file"):
        joint_layouts.layout_named(str(tmp_path / "none.toml"))
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        (tmp_path / "folder.toml").mkdir()
        joint_layouts.layout_named(str(tmp_path / "folder.toml"))
