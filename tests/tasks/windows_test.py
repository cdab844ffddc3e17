"""Which frames frame-level tasks learn from."""

import numpy as np
import pytest

from pcm3_jax.augment.pipeline import Clips
from pcm3_jax.data.recordings import Recordings
from pcm3_jax.errors import UserError
from pcm3_jax.tasks import windows

LENGTHS = np.array([70, 40], np.int32)


def videos(lengths=LENGTHS):
    # Of one person; in the n-th frame all coordinates are n.
    frames = np.repeat(np.arange(sum(lengths), dtype=np.float32)[:, None], 75, axis=1)
    return Recordings(
        split="videos (train)",
        length=np.array(lengths, np.int32),
        label=np.full(len(lengths), -1, np.int32),
        name=[f"video_{i}" for i in range(len(lengths))],
        classes=["a", "b"],
        max_frames=1000,
        frames=frames,
        start=np.cumsum(lengths, dtype=np.int32) - np.array(lengths, np.int32),
        source=None,
        actions=[np.array([[1, 10, 20]]), np.array([[0, 0, 5], [1, 38, 40]])],
    )


def test_every_frame_has_its_window_and_class():
    samples = windows.detection_samples(videos(), frames=4, stride=5)
    assert len(samples) == 110
    np.testing.assert_array_equal(samples.sequence, [0] * 70 + [1] * 40)
    # Centred on the frame, shifted inwards at both ends.
    assert samples.start[[0, 10, 30, 69]].tolist() == [0, 0, 20, 50]
    assert (samples.length == 20).all()
    expected = np.zeros(110)
    expected[10:20] = expected[108:110] = 2
    expected[70:75] = 1
    np.testing.assert_array_equal(samples.target, expected)


@pytest.mark.parametrize("offset", [0, 2])
def test_every_third_frame_of_each_video(offset):
    every = windows.detection_samples(videos(), frames=4, stride=5)
    some = windows.detection_samples(videos(), frames=4, stride=5, every=3, offset=offset)
    chosen = np.concatenate([np.arange(23) * 3, 70 + np.arange(13) * 3]) + offset
    np.testing.assert_array_equal(some.target, every.target[chosen])
    np.testing.assert_array_equal(some.start, every.start[chosen])


def test_a_video_shorter_than_a_window_is_refused():
    with pytest.raises(UserError, match=r"video_1 of videos \(train\): a video of 40 frames"):
        windows.detection_samples(videos(), frames=16, stride=4)


def test_windows_to_predict_in():
    middle = windows.prediction_samples(videos(), 60)
    assert (middle.sequence.tolist(), middle.start.tolist()) == ([0], [5])
    starts = {
        int(windows.prediction_samples(videos(), 68, np.random.default_rng(i)).start[0])
        for i in range(30)
    }
    assert starts == {0, 1, 2}
    with pytest.raises(UserError, match=r"No sequence of .* has 71 frames"):
        windows.prediction_samples(videos(), 71)


def test_take():
    frames = videos().frames
    clips = Clips(np.array([3, 70]), np.array([8, 8]))
    taken = windows.take(frames, clips, count=3, stride=2)
    assert taken.shape == (2, 3, 1, 25, 3)
    np.testing.assert_array_equal(taken[..., 0, 24, 2], [[3, 5, 7], [70, 72, 74]])
