"""Detection: its task, and windows and segments against the golden vectors and plain loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm3_jax.errors import UserError
from pcm3_jax.tasks.detection import Detection, detection_samples, segments, smooth, window_indices
from pcm3_jax.tasks.mean_ap import mean_ap_action, mean_ap_video
from tests.golden_vectors import read_archive
from tfds_builders import build

# Of sums of a few dozen doubles in another order.
ROUNDING = 1e-12
GOLDEN_TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def golden():
    """Videos of (probabilities, labels, segments), and {name: mAP}."""
    meta, arrays = read_archive("detection.xz")
    videos = []
    for v in range(meta["videos"]):
        winners, others = arrays[f"{v}/winners_prob"], arrays[f"{v}/others_prob"]
        probabilities = np.empty((winners.shape[1], len(winners) + len(others)), np.float32)
        which = np.isin(np.arange(probabilities.shape[1]), arrays[f"{v}/winners"])
        probabilities[:, which], probabilities[:, ~which] = winners.T, others.T
        videos.append((probabilities, arrays[f"{v}/labels"], arrays[f"{v}/segments"]))
    return videos, meta["means"]


def test_golden(golden):
    videos, means = golden
    found = [segments(smooth(probabilities)) for probabilities, _, _ in videos]
    for ours, (_, _, theirs) in zip(found, videos, strict=True):
        np.testing.assert_array_equal(ours[:, :3], theirs[:, :3])
        np.testing.assert_allclose(ours[:, 3], theirs[:, 3], rtol=0, atol=GOLDEN_TOLERANCE)
    truths = [labels for _, labels, _ in videos]
    measures = {"action": mean_ap_action, "video": mean_ap_video}
    assert len(means) == 4
    for name, expected in means.items():
        kind, threshold = name.removeprefix("map_").split("@")
        ours = measures[kind](found, truths, float(threshold))
        assert ours == pytest.approx(expected, rel=0, abs=GOLDEN_TOLERANCE)


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


def test_every_frame_has_its_window_and_class(videos):
    samples = detection_samples(videos, frames=4, stride=5)
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
def test_every_third_frame_of_each_video(videos, offset):
    every = detection_samples(videos, frames=4, stride=5)
    some = detection_samples(videos, frames=4, stride=5, every=3, offset=offset)
    chosen = np.concatenate([np.arange(23) * 3, 70 + np.arange(13) * 3]) + offset
    np.testing.assert_array_equal(some.target, every.target[chosen])
    np.testing.assert_array_equal(some.start, every.start[chosen])


def test_a_video_shorter_than_a_window_is_named(videos):
    with pytest.raises(UserError, match=r"video_1 of videos \(train\): a video of 40 frames"):
        detection_samples(videos, frames=16, stride=4)


def test_detection(finished_run, brief_config, tmp_path):
    build.build("synthetic_skeletons/n4x2_untrimmed", tmp_path)
    brief_config.data.update(name="synthetic_skeletons/n4x2_untrimmed", dir=str(tmp_path))
    brief_config.encoder = str(finished_run[0])
    results = Detection().run(brief_config, tmp_path / "run")
    maps = {f"map_{kind}@{o}" for kind in ("action", "video") for o in (0.1, 0.3, 0.5)}
    assert results.keys() == maps | {"frame_accuracy"}
    assert all(0 <= value <= 1 for value in results.values())
    assert results["map_action@0.1"] >= results["map_action@0.5"]
