"""Mean average precision of detected actions (Table 5).

Labels of true intervals are 0-based, as in the data sets; classes of segments are 1-based, because
class 0 is the background.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Columns of a segment: class (1-based), first frame, one past the last frame, score.
CLASS, START, STOP, SCORE = range(4)


def mean_ap_action(
    detections: Sequence[np.ndarray], truths: Sequence[np.ndarray], threshold: float = 0.5
) -> float:
    """mAP_a: mean over actions of the average precision over all videos, in [0, 1].

    Average precision is PASCAL VOC's: the area under the precision envelope over recall.  A
    segment claims the true interval of its class and video that it overlaps most, if their
    temporal IoU (with lengths of stop - start + 1 frames) is at least ``threshold``.  If several
    segments claim an interval, only the one with the highest score is correct.  Segments of equal
    score keep their order.

    An action that is never detected counts as 0.  An action without true intervals is left out of
    the mean, and so are its segments.

    Args:
      detections: for each video, its segments (S, 4) from `segments`.
      truths: for each video, (G, 3 or more): label (0-based), start, stop.
      threshold: minimum temporal IoU.

    Raises:
      ValueError: no video has a true interval.
    """
    _require_truths(truths)
    claimed = _claims(detections, truths, threshold, inclusive=1)
    # Intervals are numbered consecutively over all videos.
    first = np.cumsum([0, *map(len, truths)])[:-1]
    claims = np.concatenate(
        [np.where(c < 0, -1, c + offset) for c, offset in zip(claimed, first, strict=True)]
    )
    rows = np.concatenate(detections)
    order = np.argsort(-rows[:, SCORE], kind="stable")
    claims, classes = claims[order], rows[order, CLASS]
    labels = np.concatenate([truth[:, 0] for truth in truths])
    actions, counts = np.unique(labels, return_counts=True)
    return float(
        np.mean(
            [
                _voc_average_precision(claims[classes == action + 1], count)
                for action, count in zip(actions, counts, strict=True)
            ]
        )
    )


def mean_ap_video(
    detections: Sequence[np.ndarray], truths: Sequence[np.ndarray], threshold: float = 0.5
) -> float:
    """mAP_v: mean over videos of the average precision over all classes, in [0, 1].

    Arguments and matching are as in `mean_ap_action`, except that the length of an interval is
    stop - start and that the average precision is computed as in the authors' program.  That
    variant is interpolated like VOC's, but its precision-recall curve has fewer points: the
    precision of the whole ranked list, and for each match the precision of the segments ranked
    above it, without the match itself.  False positives at the end of the list therefore lower it,
    and it never exceeds VOC's.

    A video without segments counts as 0.  A video without true intervals is left out of the mean.

    Raises:
      ValueError: no video has a true interval.
    """
    _require_truths(truths)
    precisions = []
    for rows, truth, claims in zip(
        detections, truths, _claims(detections, truths, threshold, inclusive=0), strict=True
    ):
        if len(truth):
            order = np.argsort(-rows[:, SCORE], kind="stable")
            precisions.append(_program_average_precision(claims[order], len(truth)))
    return float(np.mean(precisions))


def _require_truths(truths: Sequence[np.ndarray]) -> None:
    if not any(map(len, truths)):
        raise ValueError("mean average precision needs at least one true interval")


def _claims(
    detections: Sequence[np.ndarray], truths: Sequence[np.ndarray], threshold: float, inclusive: int
) -> list[np.ndarray]:
    """For each video, the index (S,) of the interval that each segment claims, or -1.

    A segment claims the interval of its class that it overlaps most (the first in a tie), if the
    temporal IoU is at least ``threshold``; ``inclusive`` is added to all lengths.
    """
    claims = []
    for rows, truth in zip(detections, truths, strict=True):
        if not len(truth):
            claims.append(np.full(len(rows), -1))
            continue
        start, stop = (rows[:, c, None] for c in (START, STOP))
        common = np.minimum(stop, truth[:, 2]) - np.maximum(start, truth[:, 1]) + inclusive
        common = np.maximum(common, 0)
        union = (stop - start) + (truth[:, 2] - truth[:, 1]) + 2 * inclusive - common
        same = rows[:, CLASS, None] == truth[:, 0] + 1
        overlap = np.where(same, common / union, -1.0)
        best = overlap.argmax(1)
        claims.append(np.where(overlap.max(1) >= threshold, best, -1))
    return claims


def _first_claims(claims: np.ndarray) -> np.ndarray:
    """Whether each ranked segment (S,) is the first to claim its interval."""
    first = np.zeros(len(claims), bool)
    first[np.unique(claims, return_index=True)[1]] = True
    return first & (claims >= 0)


def _voc_average_precision(claims: np.ndarray, count: int) -> float:
    """Area under the precision envelope of ranked segments (S,) for ``count`` true intervals."""
    correct = _first_claims(claims)
    precision = correct.cumsum() / np.arange(1, len(claims) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return envelope[correct].sum() / count


def _program_average_precision(claims: np.ndarray, count: int) -> float:
    """The authors' interpolated average precision of ranked segments (S,)."""
    if not len(claims):
        return 0.0
    correct = _first_claims(claims)
    found = correct.cumsum()
    # The program removes segments from the bottom of the list and records the precision of the
    # rest only after removing a matched segment.
    above = (found - correct) / np.maximum(np.arange(len(claims)), 1)
    above = np.where(claims >= 0, above, 0.0)
    above[-1] = max(above[-1], found[-1] / len(claims))
    envelope = np.maximum.accumulate(above[::-1])[::-1]
    return envelope[correct].sum() / count
