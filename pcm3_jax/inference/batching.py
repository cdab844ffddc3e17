"""Pads and batches sequences of any length to the few shapes that networks are compiled for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from pcm3_jax.augment.pipeline import central_view
from pcm3_jax.data.batch import Clips
from pcm3_jax.data.skeleton import missing_joints, to_stream, visible_in_stream
from pcm3_jax.inference.validation import Sequence
from pcm3_jax.settings import Views

# Batches have one of these numbers of rows; sequences are padded to a power of two.
_ROWS = (1, 4, 16, 64)
_MIN_FRAMES = 16


class InputViews:
    """Turns sequences into the input of an encoder with the given ``views`` settings."""

    def __init__(self, views: Views, max_frames: int) -> None:
        self._views, self._max_frames = views, max_frames
        self._joints = dataclasses.replace(views, stream="joint")
        self._central = jax.jit(self._central_views)

    def central(self, sequences: list[Sequence]) -> Iterator[tuple[jax.Array, jax.Array, int]]:
        """Yields the views used in evaluation: the central crop, resized, in batches of B.

        Yields:
          Poses (B, T, 2, 25, 3), zero where a joint is missing; which joints are visible
          (B, T, 2, 25); and the number of real rows, which precede the padding.
        """
        for start in range(0, len(sequences), max(_ROWS)):
            group = [
                Sequence(*(part[: self._max_frames] for part in sequence))
                for sequence in sequences[start : start + max(_ROWS)]
            ]
            rows = next(size for size in _ROWS if size >= len(group))
            length = _bucket(max(len(sequence.poses) for sequence in group))
            lengths = [len(sequence.poses) for sequence in group] + [1] * (rows - len(group))
            clips = Clips(
                np.arange(rows, dtype=np.int32) * length, np.array(lengths, dtype=np.int32)
            )
            packed = [part.reshape(-1, *part.shape[2:]) for part in _padded(group, rows, length)]
            yield (*self._central(*packed, clips), len(group))

    def as_they_are(self, sequence: Sequence, *, pad: bool) -> np.ndarray:
        """The frames of one sequence in the configured stream, (1, T or more, 2, 25, 3)."""
        length = len(sequence.poses)
        poses, visible = _padded([sequence], 1, _bucket(length) if pad else length)
        seen = jnp.asarray(visible & ~missing_joints(poses))
        return np.asarray(to_stream(jnp.asarray(poses), seen, self._views.stream))

    def _central_views(
        self, poses: jax.Array, visible: jax.Array, clips: Clips
    ) -> tuple[jax.Array, jax.Array]:
        # A joint is visible if it is visible in all frames that it is interpolated from.
        shares = central_view(visible[..., None].astype(jnp.float32), clips, self._joints)[..., 0]
        seen = visible_in_stream(shares > 1 - 1e-6, self._views.stream)
        poses = central_view(poses, clips, self._views)
        return jnp.where(seen[..., None], poses, 0), seen


def _bucket(length: int) -> int:
    """The power of two that a length is padded to."""
    return max(_MIN_FRAMES, 1 << (length - 1).bit_length())


def _padded(sequences: list[Sequence], rows: int, length: int) -> Sequence:
    """Arrays (rows, length, 2, 25[, 3]), padded by repeating the last frame (no motion)."""
    poses = np.zeros((rows, length, 2, 25, 3), np.float32)
    visible = np.ones((rows, length, 2, 25), bool)
    for row, sequence in enumerate(sequences):
        for padded, part in ((poses, sequence.poses), (visible, sequence.visible)):
            padded[row, : len(part)] = part
            padded[row, len(part) :] = part[-1]
    return Sequence(poses, visible)


def in_batches(function: Callable[..., jax.Array], *arrays: np.ndarray) -> np.ndarray:
    """Results (N, …) of a compiled function of rows, for arrays (N, …) with any number of rows."""
    results = []
    for start in range(0, len(arrays[0]), max(_ROWS)):
        group = [array[start : start + max(_ROWS)] for array in arrays]
        count = len(group[0])
        rows = np.minimum(np.arange(next(size for size in _ROWS if size >= count)), count - 1)
        # Full float32, also on devices that default to a lower precision for matmuls.
        with jax.default_matmul_precision("highest"):
            results.append(np.asarray(function(*(part[rows] for part in group)))[:count])
    return np.concatenate(results)
