"""Joints, parts, streams and the order of features."""

import jax.numpy as jnp
import numpy as np
import pytest

from pcm3_jax.data import skeleton
from pcm3_jax.data.joint_layouts import KINECT_V2_JOINTS
from tests import restatement

poses = np.random.default_rng(0).normal(size=(3, 7, 2, 25, 3)).astype(np.float32)


def test_body_parts_are_the_papers_and_disjoint():
    ours = [{joint + 1 for joint in part} for part in skeleton.BODY_PARTS.values()]
    assert ours == [set(part) for part in restatement.BODY_PARTS]
    joints = sorted(joint for part in skeleton.BODY_PARTS.values() for joint in part)
    assert joints == list(range(25))


def test_left_and_right_are_those_of_kinect_v2():
    sides = {
        name: {KINECT_V2_JOINTS[joint].split("_")[-1] for joint in joints}
        for name, joints in skeleton.BODY_PARTS.items()
        if name != "trunk"
    }
    assert sides == {name: {name.split("_")[0]} for name in sides} and len(sides) == 4


def test_membership_marks_each_part():
    membership = skeleton.part_membership()
    assert membership.shape == (5, 25) and membership.dtype == bool
    for row, part in zip(membership, range(5), strict=True):
        assert np.flatnonzero(row).tolist() == sorted(restatement.part_joints([part]))


def test_parents_are_the_papers():
    np.testing.assert_array_equal(skeleton.PARENTS + 1, restatement.PARENTS)


@pytest.mark.parametrize("leading", [(3,), ()])
def test_streams(leading):
    x = poses if leading else poses[0]
    # One float32 subtraction of numbers below 5.
    for name, stated in (("bone", restatement.bone_stream), ("motion", restatement.motion_stream)):
        made = skeleton.STREAMS[name](jnp.asarray(x))
        expected = stated(poses)[: len(leading) * 3] if leading else stated(poses)[0]
        np.testing.assert_allclose(made, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(skeleton.STREAMS["joint"](x), x)
    assert set(skeleton.STREAMS) == {"joint", "bone", "motion"}


@pytest.mark.parametrize("persons", [1, 2])
def test_poses_at_reads_packed_frames(persons):
    poses = np.random.default_rng(0).normal(size=(9, persons, 25, 3))
    index = np.array([[2, 3], [8, 0]])
    for packed in (poses, poses.reshape(9, -1)):
        np.testing.assert_array_equal(skeleton.poses_at(packed, index), poses[index])


def test_flat_features_are_in_the_programs_order():
    flat = skeleton.flatten_frames(jnp.asarray(poses))
    assert flat.shape == (3, 7, 150)
    for v, c, m in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (13, 2, 1), (24, 2, 1)]:
        np.testing.assert_array_equal(flat[..., v * 6 + c * 2 + m], poses[..., m, v, c])
    np.testing.assert_array_equal(flat, restatement.flatten_frames(poses))
    np.testing.assert_array_equal(skeleton.unflatten_frames(flat), poses)


def with_missing() -> np.ndarray:
    """Seven frames of two persons, the second one absent at first; some joints are missing."""
    x = poses[0].copy()
    x[:2, 1] = 0
    x[:, 0, skeleton.SPINE] = 0  # normalisation moves it to the origin
    x[3, 0, 20] = x[:, 1, 23] = 0
    return x


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_only_joints_of_present_persons_are_missing(kind):
    expected = [(3, 0, 20), *((t, 1, 23) for t in range(2, 7))]
    missing = skeleton.missing_joints(kind(with_missing()))
    assert sorted(map(tuple, np.argwhere(missing))) == sorted(expected)


def test_bones_and_motions_of_missing_joints_are_zero():
    x = with_missing()
    visible = ~skeleton.missing_joints(x)
    full = {name: np.asarray(skeleton.STREAMS[name](jnp.asarray(x))) for name in skeleton.STREAMS}
    made = {n: np.asarray(skeleton.to_stream(jnp.asarray(x), visible, n)) for n in full}
    hidden = {name: np.zeros((7, 2, 25), bool) for name in full}
    hidden["joint"][:] = ~visible
    # Joint 20 is the parent of spine, neck, shoulders and itself; 23, a finger tip, of no joint.
    hidden["bone"][3, 0, [1, 2, 4, 8, 20]] = hidden["bone"][2:, 1, 23] = True
    hidden["motion"][2:4, 0, 20] = hidden["motion"][1:, 1, 23] = True
    hidden["motion"][1, 1, 23] = False  # absent before, hence not missing, as in the program
    for name in full:
        assert not made[name][hidden[name]].any()
        np.testing.assert_array_equal(made[name][~hidden[name]], full[name][~hidden[name]])


def test_streams_without_missing_joints_are_the_programs():
    for name, stream in skeleton.STREAMS.items():
        x = jnp.asarray(poses)
        made = skeleton.to_stream(x, ~skeleton.missing_joints(x), name)
        np.testing.assert_array_equal(made, stream(x))
