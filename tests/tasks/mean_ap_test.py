"""Mean average precision against a slow restatement in plain loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm3_jax.tasks.mean_ap import mean_ap_action, mean_ap_video

# Of sums of a few dozen doubles in another order.
ROUNDING = 1e-12


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
