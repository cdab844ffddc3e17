"""Windows, smoothing and segments against plain loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm3_jax.errors import UserError
from pcm3_jax.inference.detection import segments, smooth, window_indices

# Of sums of a few dozen doubles in another order.
ROUNDING = 1e-12


def slow_smooth(probabilities, radius):
    rows = []
    for t in range(len(probabilities)):
        window = range(max(t - radius, 0), min(t + radius, len(probabilities) - 1))
        rows.append(sum(probabilities[u] for u in window or [t]) / len(window or [t]))
    return np.array(rows)


def slow_segments(probabilities, threshold):
    found, start = [], None
    for t in range(len(probabilities) + 1):
        active = t < len(probabilities) and 1 - probabilities[t, 0] >= threshold
        if active and start is None:
            start = t
        if not active and start is not None:
            mean = sum(probabilities[start:t]) / (t - start)
            best = max(range(1, len(mean)), key=lambda c: mean[c])
            found.append((best, start, t, mean[best]))
            start = None
    return found


@given(st.integers(1, 40), st.integers(0, 12), st.integers(0, 99))
def test_smooth(frames, radius, seed):
    probabilities = np.random.default_rng(seed).random((frames, 3))
    np.testing.assert_allclose(
        smooth(probabilities, radius), slow_smooth(probabilities, radius), rtol=0, atol=ROUNDING
    )


# Multiples of 1/8 sum exactly, and give ties and probabilities equal to the threshold.
@given(st.integers(0, 40), st.sampled_from([0.25, 0.5, 0.875]), st.integers(0, 99))
def test_segments(frames, threshold, seed):
    probabilities = np.random.default_rng(seed).integers(0, 5, (frames, 4)) / 8
    expected = np.reshape(slow_segments(probabilities, threshold), (-1, 4))
    np.testing.assert_allclose(segments(probabilities, threshold), expected, rtol=0, atol=ROUNDING)


def test_a_single_frame_keeps_its_value():
    frame = np.array([[0.3, 0.7]])
    np.testing.assert_array_equal(smooth(frame), frame)
    np.testing.assert_allclose(segments(frame), [[1, 0, 1, 0.7]])


def test_the_last_frame_is_in_no_window():
    assert smooth(np.array([[0.0], [0.0], [5.0]])).max() == 0


def test_a_segment_may_end_with_the_video_and_there_may_be_none():
    probabilities = np.array([[1, 0, 0], [0.5, 0.1, 0.4], [0.5, 0.3, 0.2]])
    np.testing.assert_allclose(segments(probabilities), [[2, 1, 3, 0.3]])
    assert segments(np.array([[1.0, 0.0]] * 3)).shape == (0, 4)


def test_a_segment_is_never_background_and_equal_classes_go_to_the_first():
    probabilities = np.array([[0.6, 0.2, 0.2]] * 2)
    np.testing.assert_allclose(segments(probabilities), [[1, 0, 2, 0.2]])


@pytest.mark.parametrize("num_frames", [64, 65, 200])
def test_windows_are_centred_and_stay_within_the_video(num_frames):
    windows = window_indices(num_frames)
    assert windows.shape == (num_frames, 16)
    for t, window in enumerate(windows):
        start = min(max(t - 32, 0), num_frames - 64)
        assert window.tolist() == [start + 4 * i for i in range(16)]


def test_other_windows():
    assert window_indices(5, frames=2, stride=2).tolist() == [[0, 2]] * 3 + [[1, 3]] * 2


def test_a_video_shorter_than_a_window_is_refused():
    with pytest.raises(UserError, match="63 frames is shorter than a detection window of 64"):
        window_indices(63)
