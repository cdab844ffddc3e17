"""Reading arrays of any layout; the tests of `own_skeletons` cover invalid ones."""

import numpy as np

from pcm3_jax.data.formats.arrays import read_skeleton
from pcm3_jax.data.joint_layouts import LAYOUTS


def test_kinect_v2_stays_as_it_is():
    poses = np.random.default_rng(0).normal(size=(4, 1, 25, 3)).astype(np.float32)
    layout = LAYOUTS["kinect_v2_25"]
    np.testing.assert_array_equal(read_skeleton(poses, layout), poses)


def test_a_mean_at_the_origin_is_a_position():
    """In skeletons centred between the hips, their mean is at the origin, but no joint is."""
    poses = np.random.default_rng(0).normal(size=(4, 1, 17, 3)).astype(np.float32)
    poses[..., 12, :] = -poses[..., 11, :]
    found = read_skeleton(poses, LAYOUTS["coco_17"])
    assert found[:, 0, 0].any(axis=-1).all() and np.abs(found[:, 0, 0]).max() < 1e-8


def test_absent_persons_become_zeros():
    poses = np.random.default_rng(0).normal(size=(6, 2, 25, 3)).astype(np.float32)
    poses[:2, 1], poses[2:4, 1] = 0, np.nan
    found = read_skeleton(poses, LAYOUTS["kinect_v2_25"])
    assert not found[:4, 1].any() and found[4:].all()
