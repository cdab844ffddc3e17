"""Actions in untrimmed videos: windows, smoothing, segments, and a trained detector.

Each frame is classified from a window of frames around it; smoothed probabilities become segments.
Class 0 is the background, class k + 1 the action with label k.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from pcm3_jax.data.skeleton import missing_joints
from pcm3_jax.errors import UserError
from pcm3_jax.inference import heads
from pcm3_jax.inference.batching import in_batches
from pcm3_jax.inference.validation import Sequence
from pcm3_jax.methods.state import build_encoder
from pcm3_jax.models.heads import Classifier
from pcm3_jax.settings import Config, Section, section, setting


@section
class DetectorSettings(Section):
    """How a detector turns frames into segments."""

    frames: int = setting(16, "frames of the window that classifies a frame", low=1)
    stride: int = setting(4, "step between the frames of a window", low=1)
    smoothing: int = setting(10, "radius of the mean filter over time, in frames", low=0)
    threshold: float = setting(
        0.4, "minimum of 1 - P(background) in every frame of a segment", low=0, high=1
    )


class Interval(NamedTuple):
    """An action in a video.

    Attributes:
      label: name of the action.
      start, stop: first frame, and one past the last frame.
      score: mean probability of the action over these frames, after smoothing.
    """

    label: str
    start: int
    stop: int
    score: float


class Detector:
    """The network of a task "detection", trained."""

    settings: ClassVar[type[Section]] = DetectorSettings
    task: ClassVar[str] = "detection"

    def __init__(
        self, config: Config, tree: dict[str, Any], classes: Many[str], settings: DetectorSettings
    ) -> None:
        """Takes the parts of `pcm3_jax.inference.weights.Weights`."""
        self._classes, self._settings = classes, settings
        network = Classifier(build_encoder(config), 1 + len(classes))

        def scores(variables: Any, stream: jax.Array, poses: jax.Array) -> jax.Array:
            found: Any = network.apply(variables, stream, train=False)
            return jax.nn.softmax(found)

        self._scores = heads.compiled(scores, config, tree, {"head": tree["detector"]})

    @staticmethod
    def shapes(config: Config, settings: DetectorSettings, classes: int) -> dict[str, Any]:
        """Shapes of the head's arrays, for a number of actions."""
        shapes = {"kernel": (2 * config.model.hidden, 1 + classes), "bias": (1 + classes,)}
        return {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}

    def __call__(self, sequences: list[Sequence]) -> list[list[Interval]]:
        """The actions in normalised videos, in temporal order.

        Raises:
          UserError: a video is shorter than a window.
        """
        settings, found = self._settings, []
        for index, sequence in enumerate(sequences):
            length, span = len(sequence.poses), settings.frames * settings.stride
            if length < span:
                raise UserError(
                    f"Sequence {index} has {length} frames, fewer than the {span} of this "
                    "detector's window: pass a longer recording."
                )
            smoothed = smooth(self.probabilities(sequence), settings.smoothing)
            found.append(
                [
                    Interval(self._classes[int(number) - 1], int(start), int(stop), float(score))
                    for number, start, stop, score in segments(smoothed, settings.threshold)
                ]
            )
        return found

    def probabilities(self, sequence: Sequence) -> np.ndarray:
        """Probabilities (T, 1 + classes) of the background and the actions, frame by frame."""
        poses, settings = sequence.poses, self._settings
        visible = sequence.visible & ~missing_joints(poses)
        windows = window_indices(len(poses), settings.frames, settings.stride)
        return in_batches(lambda rows: self._scores(poses[rows], visible[rows]), windows)


def window_indices(num_frames: int, frames: int = 16, stride: int = 4) -> np.ndarray:
    """Indices (T, frames), int32, of the window that classifies each frame of a video.

    A window takes every ``stride``-th of ``frames * stride`` frames, half of them before frame t,
    and is shifted inwards at the ends of the video.

    Raises:
      UserError: the video is shorter than a window.
    """
    span = frames * stride
    if num_frames < span:
        raise UserError(
            f"a video of {num_frames} frames is shorter than a detection window of {span} frames; "
            "leave the video out, or reduce detection.frames or detection.stride"
        )
    start = (np.arange(num_frames) - span // 2).clip(0, num_frames - span)
    return (start[:, None] + stride * np.arange(frames)).astype(np.int32)


def smooth(probabilities: np.ndarray, radius: int = 10) -> np.ndarray:
    """Mean filter over time: (T, C) to (T, C), float64.

    Frame t becomes the mean of the frames [max(t - radius, 0), min(t + radius, T - 1)).  The
    upper end is exclusive, as in the authors' program, so the last frame is never averaged.
    If the range is empty (a single frame, or radius 0), a frame keeps its own value.
    """
    t = np.arange(len(probabilities))
    start = np.maximum(t - radius, 0)
    stop = np.maximum(np.minimum(t + radius, len(t) - 1), start + 1)
    total = _running_total(probabilities)
    return (total[stop] - total[start]) / (stop - start)[:, None]


def segments(probabilities: np.ndarray, threshold: float = 0.4) -> np.ndarray:
    """Segments (S, 4) of a video in temporal order: class, start, stop, score.

    A segment is a maximal run of frames with 1 - P(background) >= ``threshold``.  Its class is the
    action with the largest mean probability (the first in a tie), never the background, and its
    score is that mean.

    Args:
      probabilities: (T, C), class 0 is the background; usually the output of `smooth`.
      threshold: minimum of 1 - P(background).

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


def _running_total(values: np.ndarray) -> np.ndarray:
    """Cumulative sums (T + 1, C), starting with zeros, in float64."""
    return np.cumsum(np.pad(values.astype(np.float64), ((1, 0), (0, 0))), axis=0)
