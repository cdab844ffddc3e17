"""Detection's evaluation against the golden vectors and a slow restatement in plain loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm3_jax.errors import UserError
from pcm3_jax.tasks.detection import mean_ap_action, mean_ap_video, segments, smooth, window_indices
from tests.golden_vectors import read_archive

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


# ---------------------------------------------------------------------------- slow restatement


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


def slow_claim(row, truth, threshold, inclusive):
    """The interval that a segment claims, or None."""
    best, best_overlap = None, -1.0
    for g, (label, start, stop) in enumerate(truth):
        frames = set(range(int(row[1]), int(row[2]) + inclusive))
        true_frames = set(range(start, stop + inclusive))
        overlap = len(frames & true_frames) / len(frames | true_frames)
        if label + 1 == row[0] and overlap >= threshold and overlap > best_overlap:
            best, best_overlap = g, overlap
    return best


def slow_mean_ap_action(detections, truths, threshold):
    areas = []
    for action in sorted({label for truth in truths for label, _, _ in truth}):
        count = sum(label == action for truth in truths for label, _, _ in truth)
        ranked = [(v, r) for v, rows in enumerate(detections) for r in rows if r[0] == action + 1]
        ranked.sort(key=lambda pair: -pair[1][3])
        claimed, curve = set(), []
        for rank, (v, row) in enumerate(ranked, 1):
            g = slow_claim(row, truths[v], threshold, 1)
            new = g is not None and (v, g) not in claimed
            claimed |= {(v, g)} if new else set()
            curve.append((new, len(claimed) / rank))
        # Each correct segment adds 1 / count to the recall.
        areas.append(sum(max(p for _, p in curve[i:]) for i, c in enumerate(curve) if c[0]) / count)
    return sum(areas) / len(areas)


def slow_mean_ap_video(detections, truths, threshold):
    areas = []
    for rows, truth in zip(detections, truths, strict=True):
        if not len(truth):
            continue
        left = [
            slow_claim(r, truth, threshold, 0) for r in sorted(rows, key=lambda r: -r[3])
        ]  # the best first
        found = lambda: len(set(left) - {None})  # noqa: E731, B023
        precision = found() / len(left) if left else 0.0
        area = 0.0
        while left:
            before = found()
            if left.pop() is None:
                continue
            precision = max(precision, found() / len(left) if left else 0.0)
            area += precision * (before - found()) / len(truth)
        areas.append(area)
    return sum(areas) / len(areas)


@given(st.integers(1, 40), st.integers(0, 12), st.integers(0, 99))
def test_smooth(frames, radius, seed):
    probabilities = np.random.default_rng(seed).random((frames, 3))
    np.testing.assert_allclose(
        smooth(probabilities, radius), slow_smooth(probabilities, radius), rtol=0, atol=ROUNDING
    )


# Eighths are summed exactly, and make ties and probabilities equal to the threshold.
@given(st.integers(0, 40), st.sampled_from([0.25, 0.5, 0.875]), st.integers(0, 99))
def test_segments(frames, threshold, seed):
    probabilities = np.random.default_rng(seed).integers(0, 5, (frames, 4)) / 8
    expected = np.reshape(slow_segments(probabilities, threshold), (-1, 4))
    np.testing.assert_allclose(segments(probabilities, threshold), expected, rtol=0, atol=ROUNDING)


intervals = st.tuples(st.integers(0, 2), st.integers(0, 6), st.integers(1, 5))
videos = st.lists(
    st.tuples(
        st.lists(st.tuples(intervals, st.sampled_from([0.2, 0.5, 0.9])), max_size=6),
        st.lists(intervals, max_size=4),
    ),
    min_size=1,
    max_size=3,
)


@given(videos, st.sampled_from([0.1, 0.3, 0.5]))
def test_mean_average_precisions(videos, threshold):
    detections = [
        np.reshape([(c + 1, a, a + n, s) for (c, a, n), s in rows], (-1, 4)) for rows, _ in videos
    ]
    truths = [[(c, a, a + n) for c, a, n in truth] for _, truth in videos]
    arrays = [np.reshape(truth, (-1, 3)).astype(int) for truth in truths]
    if not any(truths):
        with pytest.raises(ValueError, match="at least one true interval"):
            mean_ap_action(detections, arrays, threshold)
        with pytest.raises(ValueError, match="at least one true interval"):
            mean_ap_video(detections, arrays, threshold)
        return
    expected = slow_mean_ap_action(detections, truths, threshold)
    assert mean_ap_action(detections, arrays, threshold) == pytest.approx(expected, abs=ROUNDING)
    expected = slow_mean_ap_video(detections, truths, threshold)
    assert mean_ap_video(detections, arrays, threshold) == pytest.approx(expected, abs=ROUNDING)


# ---------------------------------------------------------------------------------- edge cases


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


TRUTH = np.array([[0, 10, 20], [1, 30, 40]])
NOTHING = np.empty((0, 4))


def test_what_is_not_detected_counts_zero():
    right = np.array([[1, 10, 20, 0.9]])
    assert mean_ap_action([right], [TRUTH]) == 0.5
    assert mean_ap_action([NOTHING], [TRUTH]) == 0
    assert mean_ap_video([NOTHING, right], [TRUTH, TRUTH]) == 0.25
    # A video and an action without true intervals are left out of the means.
    empty = TRUTH[:0]
    assert mean_ap_video([right, right], [TRUTH, empty]) == 0.5
    assert mean_ap_action([np.array([[3, 0, 9, 1.0]]), right], [empty, TRUTH]) == 0.5


def test_only_the_best_claim_is_correct_and_equal_scores_keep_their_order():
    good, poor = [1, 10, 20, 0.5], [1, 50, 60, 0.5]
    truth = TRUTH[:1]
    assert mean_ap_action([np.array([good, poor])], [truth]) == 1
    assert mean_ap_action([np.array([poor, good])], [truth]) == 0.5
    assert mean_ap_action([np.array([good, good])], [truth]) == 1
    # The program's precision is that of the whole list or of what is above a match.
    assert mean_ap_video([np.array([good, poor])], [truth]) == 0.5
    assert mean_ap_video([np.array([good])], [truth]) == 1


def test_lengths_are_inclusive_over_actions_and_exclusive_over_videos():
    # 5 of 15 frames shared; counted inclusively, 6 of 16.
    shifted = np.array([[1, 15, 25, 0.9]])
    for threshold, by_action, by_video in ((0.33, 1, 1), (0.35, 1, 0), (0.38, 0, 0)):
        assert mean_ap_action([shifted], [TRUTH[:1]], threshold) == by_action
        assert mean_ap_video([shifted], [TRUTH[:1]], threshold) == by_video


# ------------------------------------------------------------------------------------- windows


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
