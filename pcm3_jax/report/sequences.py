"""Skeleton sequences in the page: few frames, whole millimetres or finer, stored once."""

from __future__ import annotations

import base64
from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pcm3_jax.augment.pipeline import Clips
from pcm3_jax.data.normalization import normalization_of, normalize_sequence
from pcm3_jax.data.recordings import Recordings
from pcm3_jax.data.skeleton import poses_at

# Kinect v2's frames a second.
FRAME_RATE = 30


class Pool:
    """All sequences of a page; what shows one holds its number.

    Attributes:
      sequences: for each {"frames", "persons", "scale" (metres a step), "seconds", "up" (which
        coordinate points up), "data" (base64 of little-endian int16 (T, M, V, 3))}.
    """

    def __init__(self) -> None:
        self.sequences: list[dict[str, Any]] = []
        self._numbers: dict[Hashable, int] = {}

    def add(self, poses: np.ndarray, data_name: str, seconds: float, key: Hashable = None) -> int:
        """Adds a sequence, or finds the one that was added under the same key.

        Args:
          poses: (T, M, V, 3) metres; a second person who is absent is left out.
          data_name: of the data set, which tells how coordinates lie.
          seconds: how long the sequence lasts.
          key: of a sequence that several parts of the page show; None for another.
        """
        if key is not None and key in self._numbers:
            return self._numbers[key]
        poses = np.asarray(poses, np.float32)
        if poses.shape[1] > 1 and not poses[:, 1:].any():
            poses = poses[:, :1]
        scale = max(float(np.abs(poses).max()), 1e-6) / np.iinfo(np.int16).max
        upright = normalization_of(data_name) is normalize_sequence
        self.sequences.append(
            {
                "frames": poses.shape[0],
                "persons": poses.shape[1],
                "scale": scale,
                "seconds": round(max(seconds, 0.1), 2),
                "up": 2 if upright else 1,
                "data": _packed(np.round(poses / scale), "<i2"),
            }
        )
        if key is not None:
            self._numbers[key] = len(self.sequences) - 1
        return len(self.sequences) - 1

    def add_recording(self, recordings: Recordings, index: int, frames: int) -> int:
        """Adds a sequence of a split, thinned out to so many frames."""
        key = (recordings.split, index, frames)
        if key in self._numbers:
            return self._numbers[key]
        poses = poses_of(recordings, index)
        times = np.linspace(0, len(poses) - 1, min(frames, len(poses))).round().astype(int)
        seconds = len(poses) / FRAME_RATE
        return self.add(poses[times], recordings.data_name, seconds, key)


def packed(recordings: Recordings, indices: list[int]) -> tuple[jax.Array, Clips]:
    """Some sequences of a split, one after the other: frames, and where each lies there."""
    sequences = [poses_of(recordings, index) for index in indices]
    length = np.array([len(poses) for poses in sequences], np.int32)
    clips = Clips(np.cumsum(length, dtype=np.int32) - length, length)
    return jnp.asarray(np.concatenate(sequences)), clips


def packed_flags(flags: np.ndarray) -> str:
    """Booleans, a byte each, as base64."""
    return _packed(flags, "u1")


def _packed(values: np.ndarray, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values.astype(dtype)).tobytes()).decode()


def poses_of(recordings: Recordings, index: int) -> np.ndarray:
    """The frames (T, M, V, 3) of one sequence of a split, in metres."""
    shown = np.arange(recordings.length[index])
    if recordings.frames is None:
        return poses_at(recordings.padded(np.array([index]))[0], shown)
    frames, start = recordings.packed()
    # The whole array is on the host already, or comes there once; a slice on the device would be
    # compiled for every length.
    return poses_at(np.asarray(frames), start[index] + shown)
