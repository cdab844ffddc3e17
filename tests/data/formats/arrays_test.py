"""Reading arrays of any layout; the tests of `own_skeletons` cover invalid ones."""

import io

import numpy as np
import pytest

from pcm3_jax.data.formats.arrays import read_arrays, read_skeleton
from pcm3_jax.data.joint_layouts import LAYOUTS
from tests.data.formats.raw_writers import array_bytes


def test_kinect_v2_stays_as_it_is():
    poses = np.random.default_rng(0).normal(size=(4, 1, 25, 3)).astype(np.float32)
    layout = LAYOUTS["kinect_v2_25"]
    found = read_skeleton(poses, layout)
    np.testing.assert_array_equal(found[:, :1], poses)
    assert not found[:, 1].any()


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


def test_the_only_person_there_is_first_and_third_persons_are_left_out():
    rng = np.random.default_rng(0)
    still = np.broadcast_to(rng.normal(size=(1, 25, 3)), (6, 25, 3))
    poses = np.stack([np.zeros((6, 25, 3)), still, rng.normal(size=(6, 25, 3))], axis=1)
    layout = LAYOUTS["kinect_v2_25"]
    np.testing.assert_allclose(read_skeleton(poses, layout), poses[:, 1:], rtol=1e-6)
    crowd = np.concatenate([poses, rng.normal(size=(6, 1, 25, 3))], axis=1)
    found = read_skeleton(crowd, layout)
    assert sorted(map(np.float32, (crowd[0, 2, 0, 0], crowd[0, 3, 0, 0]))) == sorted(
        found[0, :, 0, 0]
    )


@pytest.mark.parametrize("damage", [b"(", b"'", b"\x00", b"\xff"])
def test_a_damaged_header_is_refused(damage):
    content = array_bytes(np.zeros(3)).replace(b" \n", damage + b"\n")
    with pytest.raises(ValueError, match="holds no usable arrays"):
        read_arrays(io.BytesIO(content))
