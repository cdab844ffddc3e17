"""Body measures, and notes about units, axes and the order of joints."""

import json

import numpy as np
import pytest

from pcm3_jax.data import plausibility
from pcm3_jax.data.formats.arrays import read_skeleton
from pcm3_jax.data.joint_layouts import KINECT_V2_JOINTS, LAYOUTS, to_kinect_v2
from pcm3_jax.data.normalization import normalize_sequence
from tests.data.body import LEFT, in_order_of, person


def notes(skeleton):
    (note,) = plausibility.notes(plausibility.measure(skeleton))
    return note


def test_measures_are_those_of_the_body():
    found = plausibility.measure(person(frames=300))
    assert found.trunk == pytest.approx(0.47, abs=0.01)
    assert found.height == pytest.approx(0.25 + 0.47 + 0.4 + 0.4, abs=0.02)
    assert found.limbs["thigh"] == pytest.approx((0.4, 0.4), abs=0.01)
    assert found.limbs["upper arm"] == pytest.approx((0.275, 0.275), abs=0.01)
    assert found.feet == pytest.approx(0.8, abs=0.01)
    assert found.extent[1] == pytest.approx(1.57, abs=0.08)
    assert found.uneven < 1.1 and found.changing < 0.1
    assert not (found.confidence or found.crossed or found.mirrored or found.order)
    # They are stored as JSON.
    stored = plausibility.Measures(**json.loads(json.dumps(found._asdict())))
    assert stored.uneven == found.uneven and stored.changing == found.changing


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_body_has_no_notes_in_any_layout_or_axes(layout):
    body = to_kinect_v2(in_order_of(layout, person()), LAYOUTS[layout])
    upside_down = body * [-1, -1, 1]
    normalised = normalize_sequence(np.nan_to_num(body))
    two = np.concatenate([body, np.zeros_like(body)], axis=1)
    for skeleton in (body, upside_down, normalised, two):
        assert plausibility.notes(plausibility.measure(skeleton)) == []


@pytest.mark.parametrize(
    ("factor", "note"),
    [
        (1000, "trunk 470 m where 0.25 to 0.8 m is usual; probably millimetres, divide by 1000"),
        (100, "trunk 47 m where 0.25 to 0.8 m is usual; probably centimetres, divide by 100"),
        (39.37, "trunk 18.5 m where 0.25 to 0.8 m is usual; probably inches, divide by 39.37"),
        (10, "trunk 4.7 m where 0.25 to 0.8 m is usual; probably decimetres, divide by 10"),
        (3.281, "trunk 1.54 m where 0.25 to 0.8 m is usual; probably feet, divide by 3.281"),
        (0.2, "trunk 0.094 m where 0.25 to 0.8 m is usual; probably not metres, scale them"),
    ],
)
def test_units_are_named(factor, note):
    steady = np.tile(person(frames=500).mean(axis=0), (20, 1, 1, 1))
    steady *= 0.47 / plausibility.measure(steady).trunk
    assert notes(steady * factor).startswith(note)


def test_keypoints_of_an_image_are_noticed():
    rng = np.random.default_rng(0)
    image = person()[..., :2] / person()[..., 2:] + 0.5
    for size in (1, 60):  # in units of the image, and in pixels of a small one
        confidence = rng.uniform(0.7, 1, size=(*image.shape[:-1], 1))
        assert "2-D keypoints with a confidence" in notes(np.append(image * size, confidence, -1))
    flat = np.append(image, np.zeros((*image.shape[:-1], 1)), -1)
    assert notes(flat).startswith("z hardly varies (0 m); probably 2-D keypoints")


@pytest.mark.parametrize(
    ("true", "given"),
    [("h36m_17", "coco_17"), ("kinect_v2_25", "openpose_25"), ("openpose_25", "kinect_v2_25")],
)
def test_the_order_of_another_layout_is_named(true, given):
    poses = in_order_of(true, person())
    poses += 1e-3 * np.random.default_rng(1).normal(size=poses.shape)
    note = notes(read_skeleton(poses, LAYOUTS[given]))
    assert note.endswith(f"; the joints are probably in the order of {true}, name that layout")
    assert plausibility.notes(plausibility.measure(read_skeleton(poses, LAYOUTS[true]))) == []


def test_shuffled_joints_are_noticed():
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(25)
        assert "another order than the layout's" in notes(person()[:, :, order])


def test_exchanged_sides_and_left_handed_axes_are_noticed():
    def exchanged(*parts):
        order = list(range(25))
        for part in parts:
            left, right = (KINECT_V2_JOINTS.index(f"{part}_{side}") for side in ("left", "right"))
            order[left], order[right] = right, left
        return person()[:, :, order]

    assert "backwards; if left and right joints are not swapped" in notes(exchanged(*LEFT))
    assert "backwards; if left and right joints are not swapped" in notes(person() * [1, 1, -1])
    arms = [part for part in LEFT if part not in ("hip", "knee", "ankle", "foot")]
    assert "swapped in the arms or in the legs" in notes(exchanged(*arms))
    # Without feet, forearms tell.
    footless = person() * [1, 1, -1]
    footless[:, :, [15, 19]] = np.nan
    assert "backwards" in notes(footless)


def test_legs_over_the_trunk_are_noticed():
    body = person()
    legs = [
        i for i, name in enumerate(KINECT_V2_JOINTS) if name.startswith(("knee", "ank", "foot"))
    ]
    body[:, :, legs, 1] *= -1
    assert notes(body).startswith("feet 0.83 m above the hips, seen along the trunk; ")


def test_most_recordings_of_a_data_set_make_a_note():
    good, bad = (plausibility.measure(person() * factor) for factor in (1, 10))
    assert plausibility.shared_notes([good, good, bad]) == []
    (note,) = plausibility.shared_notes([good, bad, bad])
    assert note.startswith("2 of 3 recordings: trunk 4.67 m")
    assert plausibility.shared_notes([]) == []


def test_missing_joints_are_no_flaw():
    body = person()
    body[:, :, 12:20] = np.nan  # somebody at a desk
    found = plausibility.measure(body)
    assert np.isnan(found.trunk) and np.isnan(found.feet) and plausibility.notes(found) == []
    assert plausibility.notes(plausibility.measure(np.zeros((3, 2, 25, 3)))) == []
