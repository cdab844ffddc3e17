"""Action detection in untrimmed videos (Table 5): from frame probabilities to segments and mAP.

Labels of truth rows are 0-based actions, as the data sets hold them; classes of frame
probabilities and of segments are 1-based actions, because class 0 is the background.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pcm3_jax.errors import UserError

# Columns of a segment: class (1-based), first frame, one past the last frame, score.
CLASS, START, STOP, SCORE = range(4)


def window_indices(num_frames: int, frames: int = 16, stride: int = 4) -> np.ndarray:
    """Frames (T, frames), int32, that a frame is classified by: every ``stride``-th around it.

    A window spans ``frames * stride`` frames, half of them before frame t, and is shifted
    inwards at the ends of the video.

    Raises:
      UserError: if the video is shorter than a window.
    """
    span = frames * stride
    if num_frames < span:
        raise UserError(
            f"a video of {num_frames} frames is shorter than a detection window of {span} frames; "
            "leave it out, or take fewer frames or a smaller stride"
        )
    start = (np.arange(num_frames) - span // 2).clip(0, num_frames - span)
    return (start[:, None] + stride * np.arange(frames)).astype(np.int32)


def smooth(probabilities: np.ndarray, radius: int = 10) -> np.ndarray:
    """Mean filter over time: (T, C) to (T, C), float64.

    Frame t becomes the mean of the frames [max(t - radius, 0), min(t + radius, T - 1)).  The
    upper end is exclusive, as in the authors' program, so the very last frame is in no window.
    Where that leaves nothing (a single frame, or radius 0), a frame keeps its own value.
    """
    t = np.arange(len(probabilities))
    start = np.maximum(t - radius, 0)
    stop = np.maximum(np.minimum(t + radius, len(t) - 1), start + 1)
    total = _running_total(probabilities)
    return (total[stop] - total[start]) / (stop - start)[:, None]


def segments(probabilities: np.ndarray, threshold: float = 0.4) -> np.ndarray:
    """Segments (S, 4) of a video, in the order of time: class, start, stop, score.

    A segment is a run of frames in which some action is likely enough, 1 - P(background) >=
    ``threshold``.  Its class is the action of the largest mean probability (the first of
    equals), never the background, and its score is that mean.

    Args:
      probabilities: (T, C), class 0 is the background; usually those of `smooth`.
      threshold: on the probability of any action.

    Returns:
      float64 rows: class (1-based), first frame, one past the last frame, score.
    """
    active = 1 - probabilities[:, 0] >= threshold
    edges = np.diff(active.astype(np.int8), prepend=0, append=0)
    start, stop = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    total = _running_total(probabilities)
    mean = (total[stop] - total[start]) / (stop - start)[:, None]
    best = 1 + mean[:, 1:].argmax(1)
    return np.column_stack([best, start, stop, mean[np.arange(len(best)), best]])


def mean_ap_action(
    detections: Sequence[np.ndarray], truths: Sequence[np.ndarray], threshold: float = 0.5
) -> float:
    """mAP_a: mean over actions of the average precision over all videos, in [0, 1].

    Average precision is PASCAL VOC's: the area under the precision envelope over recall.  A
    segment claims the true interval of its class and video that it overlaps most, if their
    temporal IoU (lengths in frames counted inclusively, stop - start + 1) is at least
    ``threshold``; only the best scored claim of an interval is correct.  Segments of equal score
    rank in the order given.

    An action that is never detected counts 0.  An action that never happens does not count, and
    neither do its segments.

    Args:
      detections: one (S, 4) of `segments` for each video.
      truths: one (G, 3 or more) for each video: label (0-based), start, stop.
      threshold: temporal IoU.

    Raises:
      ValueError: if there is no true interval at all.
    """
    _require_truths(truths)
    claimed = _claims(detections, truths, threshold, inclusive=1)
    # Intervals are numbered through all videos.
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

    Matching and arguments are those of `mean_ap_action`, but lengths count exclusively,
    stop - start, and the average precision is that of the authors' program.  It interpolates, like
    VOC's, but it knows only the precisions of the whole list and of what ranks above each matched
    segment: not that of a list that ends in a match.  So false segments at the end of a list
    lower it, and it is never above VOC's.

    A video without segments counts 0.  A video without true intervals does not count.

    Raises:
      ValueError: if there is no true interval at all.
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


def _running_total(values: np.ndarray) -> np.ndarray:
    """(T + 1, C) sums of the first 0 ... T rows, in double precision."""
    return np.cumsum(np.pad(values.astype(np.float64), ((1, 0), (0, 0))), axis=0)


def _require_truths(truths: Sequence[np.ndarray]) -> None:
    if not any(map(len, truths)):
        raise ValueError("mean average precision needs at least one true interval")


def _claims(
    detections: Sequence[np.ndarray], truths: Sequence[np.ndarray], threshold: float, inclusive: int
) -> list[np.ndarray]:
    """For each video, the index (S,) of the interval that each segment claims, or -1.

    That is the interval of its class that it overlaps most (the first of equals), where the
    temporal IoU reaches ``threshold``; ``inclusive`` is added to all lengths.
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
    """(S,) whether a ranked segment is the first to claim its interval."""
    first = np.zeros(len(claims), bool)
    first[np.unique(claims, return_index=True)[1]] = True
    return first & (claims >= 0)


def _voc_average_precision(claims: np.ndarray, count: int) -> float:
    """Area under the precision envelope of segments (S,) by rank, of ``count`` intervals."""
    correct = _first_claims(claims)
    precision = correct.cumsum() / np.arange(1, len(claims) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return envelope[correct].sum() / count


def _program_average_precision(claims: np.ndarray, count: int) -> float:
    """The authors' interpolated average precision of segments (S,) by rank."""
    if not len(claims):
        return 0.0
    correct = _first_claims(claims)
    found = correct.cumsum()
    # Taking segments away from the bottom, the program looks at the precision of the list only
    # when it has just taken a matched one away.
    above = (found - correct) / np.maximum(np.arange(len(claims)), 1)
    above = np.where(claims >= 0, above, 0.0)
    above[-1] = max(above[-1], found[-1] / len(claims))
    envelope = np.maximum.accumulate(above[::-1])[::-1]
    return envelope[correct].sum() / count
