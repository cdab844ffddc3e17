"""Untrimmed synthetic videos: continuous, labelled where something happens; clips stay as is."""

import numpy as np
import pytest

from tfds_builders.synthetic_skeletons import generator

WRISTS, SHOULDERS = [6, 10], [4, 8]


@pytest.fixture(scope="module")
def videos():
    return list(generator.generate_untrimmed("train", 0, 20))


@pytest.fixture(scope="module")
def clean():
    """Videos, and clips of one person, without the sensor's noise and losses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generator, "sensor_noise", lambda rng, shape, clip_of_frame: np.zeros(shape))
        patch.setattr(generator, "lose_joints", lambda rng, clip: None)
        made = list(generator.generate_untrimmed("train", 0, 20))
        clips = [c for c in generator.generate("train", 0, 256) if not c.skeleton[:, 1].any()]
    return made, clips


def in_action(video) -> np.ndarray:
    """(T,) whether some action is under way."""
    active = np.zeros(len(video.skeleton), bool)
    for _, start, stop in video.intervals:
        active[start:stop] = True
    return active


def speeds(recording) -> np.ndarray:
    """(T - 1, V) movement of each joint from frame to frame, metres."""
    return np.linalg.norm(np.diff(recording.skeleton[:, 0], axis=0), axis=-1)


def test_shapes_and_ranges(videos):
    lengths = [len(video.skeleton) for video in videos]
    assert min(lengths) > 300
    assert max(lengths) < 2000
    assert {video.camera for video in videos} == {1, 2, 3}
    assert {video.performer for video in videos} <= set(generator.PERFORMERS["train"])
    for video in videos:
        assert video.skeleton.shape[1:] == (2, 25, 3)
        assert video.skeleton.dtype == np.float32
        assert np.isfinite(video.skeleton).all()
        assert not video.skeleton[:, 1].any()


def test_intervals_are_in_order_and_apart(videos):
    shortest, longest = generator.PAUSE_FRAMES
    seen = set()
    for video in videos:
        labels, start, stop = video.intervals.T
        assert 4 <= len(labels) <= 8
        assert len(set(labels)) == len(labels)
        edges = np.concatenate([[0], video.intervals[:, 1:].ravel(), [len(video.skeleton)]])
        pauses = edges[1::2] - edges[::2]
        assert pauses.min() >= shortest
        assert pauses.max() <= longest
        assert (stop - start).min() > 5
        seen |= set(labels)
    assert {generator.LABELS[label] for label in seen} == set(generator.SOLO_LABELS)


def test_pauses_are_rest_and_actions_are_not(clean):
    for video in clean[0]:
        active, speed = in_action(video), speeds(video)
        resting = ~active[1:] & ~active[:-1]
        # People sway, turn a little, and hold their hands anywhere below the chin.
        assert speed[resting].max() < 0.04
        assert np.median(speed[resting].max(1)) < 0.5 * np.median(speed[~resting].max(1))
        upwards = video.skeleton[:, 0, 20] - video.skeleton[:, 0, 0]
        upwards /= np.linalg.norm(upwards, axis=-1, keepdims=True)
        reach = video.skeleton[:, 0, WRISTS] - video.skeleton[:, 0, SHOULDERS]
        assert np.einsum("tjc,tc->tj", reach, upwards)[~active].max() < 0.1


def test_movement_is_as_smooth_as_in_clips(clean):
    videos, clips = clean
    ours, theirs = (
        np.concatenate([speeds(recording).ravel() for recording in recordings])
        for recordings in (videos, clips)
    )
    # Actions of the same kinds, done by different people.
    assert ours.max() < 1.2 * theirs.max()
    assert np.quantile(ours, 0.999) < 1.2 * np.quantile(theirs, 0.999)


def test_the_sensor_is_that_of_clips(videos, clean):
    for video, exact in zip(videos[:5], clean[0], strict=False):
        np.testing.assert_array_equal(video.intervals, exact.intervals)
        seen = video.skeleton[:, 0].any(-1)
        assert (~seen).mean() < 0.1
        error = (video.skeleton - exact.skeleton)[:, 0][seen]
        assert 0.005 < error.std() < 0.04


def test_a_video_is_a_function_of_seed_split_and_index(videos):
    pieces = [(0, 1), (1, 3), (3, 3), (3, 5)]
    again = [v for piece in pieces for v in generator.generate_untrimmed("train", *piece)]
    for one, other in zip(videos[:5], again, strict=True):
        for ours, theirs in zip(one, other, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    for other in (
        generator.generate_untrimmed("train", 0, 1, seed=1),
        generator.generate_untrimmed("test", 0, 1),
        generator.generate_untrimmed("train", 1, 2),
    ):
        assert not np.array_equal(next(other).skeleton, videos[0].skeleton)


def test_unknown_split():
    with pytest.raises(KeyError, match="validation"):
        next(generator.generate_untrimmed("validation", 0, 1))


def fingerprint(clip) -> tuple[int, int, int, int, float]:
    """Length, label, performer, camera, and a sum that every coordinate enters with its weight."""
    flat = clip.skeleton.astype(np.float64).ravel()
    return (len(clip.skeleton), *clip[1:], float(flat @ np.cos(np.arange(flat.size))))


PINNED = [
    (223, 0, 20, 1, -2.56117),
    (214, 1, 6, 2, -1.33858),
    (147, 2, 13, 2, -3.82413),
    (193, 3, 11, 2, -7.95357),
    (62, 14, 33, 1, -11.45910),
    (177, 15, 39, 3, -2.61539),
    (237, 16, 31, 3, -0.74056),
]


def test_clips_are_those_that_published_figures_come_from():
    made = [*generator.generate("train", 126, 130), *generator.generate("test", 14, 17, seed=3)]
    for clip, (*discrete, total) in zip(made, PINNED, strict=True):
        *ours, ours_total = fingerprint(clip)
        assert ours == discrete
        # Float32 rounding, which differs from processor to processor.
        assert ours_total == pytest.approx(total, abs=1e-3)
