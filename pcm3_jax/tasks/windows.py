"""Pieces of sequences that frame-level tasks learn from: which frames, and with what target."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from pcm3_jax.augment.pipeline import Clips
from pcm3_jax.data.feed import Samples
from pcm3_jax.data.recordings import Recordings
from pcm3_jax.data.skeleton import poses_at
from pcm3_jax.errors import UserError
from pcm3_jax.tasks.detection import window_indices


def take(frames: jax.Array, clips: Clips, count: int, stride: int = 1) -> jax.Array:
    """The first ``count`` frames, every ``stride``-th, of clips: (N, count, M, V, C)."""
    return poses_at(frames, clips.start[:, None] + stride * jnp.arange(count))


def frame_classes(length: int, actions: np.ndarray) -> np.ndarray:
    """Class of every frame of a video (T,): 0 background, else label + 1.

    Args:
      length: T.
      actions: (K, 3) rows (label, start, stop).
    """
    classes = np.zeros(length, np.int32)
    for label, start, stop in actions:
        classes[start:stop] = label + 1
    return classes


def detection_samples(
    videos: Recordings, frames: int, stride: int, every: int = 1, offset: int = 0
) -> Samples:
    """The window around every ``every``-th frame of each video, from ``offset`` on, and its class.

    Each video gives as many samples for any offset below ``every``.

    Raises:
      UserError: a video is shorter than a window.
    """
    sequences, start, target = [], [], []
    for index, (length, actions) in enumerate(zip(videos.length, videos.actions, strict=True)):
        try:
            windows = window_indices(length, frames, stride)
        except UserError as error:
            raise UserError(f"{videos.name[index]} of {videos.split}: {error}.") from None
        chosen = np.arange(length // every) * every + offset
        sequences.append(np.full(len(chosen), index, np.int32))
        start.append(windows[chosen, 0])
        target.append(frame_classes(length, actions)[chosen])
    sequence = np.concatenate(sequences)
    length = np.full(len(sequence), frames * stride, np.int32)
    return Samples(sequence, np.concatenate(start), length, np.concatenate(target))


def prediction_samples(
    recordings: Recordings, span: int, rng: np.random.Generator | None = None
) -> Samples:
    """A window of ``span`` frames of each sequence that is as long: anywhere, or the middle one.

    Raises:
      UserError: no sequence is as long.
    """
    sequence = np.flatnonzero(recordings.length >= span).astype(np.int32)
    if not len(sequence):
        raise UserError(
            f"No sequence of {recordings.split} has {span} frames; set "
            "config.motion_prediction.observed and .future to fewer."
        )
    room = recordings.length[sequence] - span
    start = room // 2 if rng is None else rng.integers(0, room + 1)
    lengths = np.full(len(sequence), span, np.int32)
    return Samples(sequence, start.astype(np.int32), lengths, np.zeros_like(sequence))
