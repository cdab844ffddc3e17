"""Normalisation against pinned files and against a slow restatement in plain loops."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcm3_jax.data.normalization import normalize_sequence, select_bodies

GOLDEN = Path(__file__).parents[1] / "golden" / "ntu_preprocess.npz"


def golden_cases():
    with np.load(GOLDEN) as golden:
        ends = np.cumsum(golden["num_frame"])[:-1]
        raw, normalized = np.split(golden["raw"], ends), np.split(golden["normalized"], ends)
        return list(zip(golden["filename"], raw, normalized, strict=True))


@pytest.mark.parametrize(("name", "raw", "normalized"), golden_cases(), ids=lambda x: str(x)[:20])
def test_matches_the_public_program(name, raw, normalized):
    # The program computes in float32; 1e-5 m is far below the sensor's resolution.
    np.testing.assert_allclose(normalize_sequence(raw), normalized, rtol=0, atol=1e-5)


def rotated(vector, axis, angle):
    """Rodrigues' formula for one vector."""
    axis = np.array(axis) / np.linalg.norm(axis)
    cosine, sine = math.cos(angle), math.sin(angle)
    return (
        vector * cosine + np.cross(axis, vector) * sine + axis * np.dot(axis, vector) * (1 - cosine)
    )


def rotate_all(skeleton, source, target):
    axis = np.cross(source, target)
    if np.linalg.norm(source) < 1e-9 or np.linalg.norm(axis) < 1e-9:
        return
    angle = math.acos(np.clip(np.dot(source, target) / np.linalg.norm(source), -1.0, 1.0))
    for frame in skeleton:
        for person in frame:
            for joint in range(25):
                person[joint] = rotated(person[joint], axis, angle)


def slow_normalize(skeleton):
    """The four steps, one frame, person and joint at a time."""
    out = skeleton.astype(np.float64)
    frames, persons = out.shape[:2]
    for person in range(persons):
        body = [out[t, person].copy() for t in range(frames)]
        if not any(frame.any() for frame in body):
            continue
        if not body[0].any():
            body = [frame for frame in body if frame.any()]
        while not body[-1].any():
            body.pop()
        for t in range(frames):
            out[t, person] = body[t % len(body)]
    for t in range(frames):
        centre = out[t, 0, 1].copy()
        for person in range(persons):
            for joint in range(25):
                if out[t, person, joint].any():
                    out[t, person, joint] -= centre
    rotate_all(out, out[0, 0, 1] - out[0, 0, 0], np.array([0.0, 0.0, 1.0]))
    rotate_all(out, out[0, 0, 8] - out[0, 0, 4], np.array([1.0, 0.0, 0.0]))
    return out


def random_skeleton(seed, frames, persons=2):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(frames, persons, 25, 3)) + [0.0, 0.0, 3.0]).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.data())
def test_matches_the_restatement_with_empty_frames(seed, frames, data):
    skeleton = random_skeleton(seed, frames)
    presence = np.array(data.draw(st.lists(st.booleans(), min_size=frames, max_size=frames)))
    skeleton[~presence, 1] = 0.0
    start, stop = sorted(data.draw(st.tuples(st.integers(0, frames), st.integers(0, frames))))
    skeleton[stop:, 0] = 0.0
    skeleton[:start, 0] = 0.0
    if not skeleton[:, 0].any():
        return
    # Random joints, metres apart: float32 input, float64 arithmetic in both.
    np.testing.assert_allclose(
        normalize_sequence(skeleton), slow_normalize(skeleton), rtol=0, atol=1e-5
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 10))
def test_is_a_rigid_motion_that_aligns_two_axes(seed, frames):
    skeleton = random_skeleton(seed, frames)
    out = normalize_sequence(skeleton)
    apart = skeleton[:, :, :, None] - skeleton[:, :, None]
    apart_after = out[:, :, :, None] - out[:, :, None]
    np.testing.assert_allclose(
        np.linalg.norm(apart_after, axis=-1), np.linalg.norm(apart, axis=-1), atol=1e-5
    )
    assert not out[:, 0, 1].any()
    across = out[0, 0, 8] - out[0, 0, 4]
    np.testing.assert_allclose(across / np.linalg.norm(across), [1, 0, 0], atol=1e-5)


def test_hip_to_spine_is_z_where_the_shoulders_are_perpendicular():
    skeleton = random_skeleton(0, 3)
    up = skeleton[0, 0, 1] - skeleton[0, 0, 0]
    skeleton[0, 0, 8] = skeleton[0, 0, 4] + np.cross(up, [1.0, 0.2, 0.1])
    out = normalize_sequence(skeleton)
    above = -out[0, 0, 0]
    np.testing.assert_allclose(above / np.linalg.norm(above), [0, 0, 1], atol=1e-5)


def test_missing_joints_stay_zero_and_the_input_unchanged():
    skeleton = random_skeleton(1, 4)
    skeleton[2, 0, 7] = skeleton[1, 1, 20] = 0.0
    before = skeleton.copy()
    out = normalize_sequence(skeleton)
    assert not out[2, 0, 7].any()
    assert not out[1, 1, 20].any()
    assert out[2, 0, 6].any()
    np.testing.assert_array_equal(skeleton, before)


@pytest.mark.parametrize("lost", [(0,), (1,)])
def test_no_rotation_without_hip_or_spine(lost):
    skeleton = random_skeleton(2, 2)
    skeleton[0, 0, lost] = 0.0
    skeleton[0, 0, 4] = 0.0  # no rotation to the shoulders either: only centring is left
    centred = skeleton - skeleton[:, :1, 1:2] * skeleton.any(axis=-1, keepdims=True)
    np.testing.assert_allclose(normalize_sequence(skeleton), centred, atol=1e-6)


def test_an_opposite_direction_is_rotated_by_180_degrees():
    skeleton = random_skeleton(3, 1)
    skeleton[0, 0, 0] = skeleton[0, 0, 1] + np.array([0.0, 0.0, 0.5], np.float32)
    skeleton[0, 0, 4] = 0.0
    np.testing.assert_allclose(normalize_sequence(skeleton)[0, 0, 0], [0, 0, -0.5], atol=1e-6)


def test_sequences_of_more_than_300_frames_are_not_cut():
    skeleton = random_skeleton(4, 350)
    skeleton[320:, 1] = 0.0
    out = normalize_sequence(skeleton)
    assert out.shape == skeleton.shape
    # Filled with the second person's first frame; a rigid motion keeps bone lengths.
    np.testing.assert_allclose(
        np.linalg.norm(out[320, 1, 5] - out[320, 1, 6]),
        np.linalg.norm(skeleton[0, 1, 5] - skeleton[0, 1, 6]),
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("skeleton", "message"),
    [
        (np.zeros((5, 2, 25, 3), np.float32), "no joint of any person was seen"),
        (np.zeros((0, 2, 25, 3), np.float32), "no joint of any person was seen"),
        (np.full((5, 2, 25, 3), np.nan, np.float32), "not finite"),
        (np.ones((5, 25, 3), np.float32), r"\(T, M, 25, 3\)"),
    ],
)
def test_invalid_skeletons_are_errors(skeleton, message):
    with pytest.raises(ValueError, match=message):
        normalize_sequence(skeleton)


def test_select_bodies_ranks_motion_over_non_empty_frames():
    slots = random_skeleton(5, 20, persons=4)
    still = slots[:1, 0].copy()
    slots[:, 0] = still + 0.001 * slots[:, 0]
    slots[:, 2] = 0.0
    slots[:, 0] -= slots[:, 0].mean(axis=1, keepdims=True)
    slots[:, 0] *= 0.1
    slots[4:, 3] *= 0.0
    slots[:, 3] *= 3.0  # only four frames, with large motion
    np.testing.assert_array_equal(select_bodies(slots), slots[:, [3, 1]])


def test_select_bodies_adds_an_absent_second_person():
    slots = random_skeleton(6, 5, persons=1)
    out = select_bodies(slots)
    np.testing.assert_array_equal(out[:, 0], slots[:, 0])
    assert out.shape == (5, 2, 25, 3)
    assert not out[:, 1].any()
