"""Skeleton sequences of the page: subsampled, quantised to int16, each stored once."""

from __future__ import annotations

import base64
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pcm3_jax.data.batch import Clips
from pcm3_jax.data.normalization import normalization_of, normalize_sequence
from pcm3_jax.data.recordings import Recordings
from pcm3_jax.data.skeleton import poses_at

# Frames per second of Kinect v2.
FRAME_RATE = 30


class Pool:
    """All sequences of a page; other parts of it refer to them by number.

    Attributes:
      sequences: one {"frames", "persons", "scale" (metres per unit), "seconds", "up" (which
        coordinate points up), "data" (base64 of little-endian int16 (T, M, V, 3))}.
    """

    def __init__(self) -> None:
        self.sequences: list[dict[str, Any]] = []
        self._numbers: dict[tuple[str, int, int], int] = {}

    def add(self, poses: np.ndarray, data_name: str, seconds: float) -> int:
        """Adds a sequence, and returns its number.

        Args:
          poses: (T, M, V, 3) metres; a second person who is absent is left out.
          data_name: name of the data set, which determines the vertical axis.
          seconds: how long the sequence lasts.
        """
        poses = np.asarray(poses, np.float32)
        if not poses[:, 1:].any():
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
                "data": encoded(np.round(poses / scale), "<i2"),
            }
        )
        return len(self.sequences) - 1

    def add_recording(self, recordings: Recordings, index: int, frames: int) -> int:
        """Adds a sequence of a split, subsampled to ``frames`` frames, once; returns its number."""
        key = (recordings.split, index, frames)
        if key not in self._numbers:
            poses = poses_of(recordings, index)
            times = np.linspace(0, len(poses) - 1, min(frames, len(poses))).round().astype(int)
            seconds = len(poses) / FRAME_RATE
            self._numbers[key] = self.add(poses[times], recordings.data_name, seconds)
        return self._numbers[key]


def packed(recordings: Recordings, indices: list[int]) -> tuple[jax.Array, Clips]:
    """Concatenated frames of some sequences of a split, and the position of each in them."""
    sequences = [poses_of(recordings, index) for index in indices]
    length = np.array([len(poses) for poses in sequences], np.int32)
    clips = Clips(np.cumsum(length, dtype=np.int32) - length, length)
    return jnp.asarray(np.concatenate(sequences)), clips


def encoded(values: np.ndarray, dtype: str) -> str:
    """Values as base64."""
    return base64.b64encode(values.astype(dtype).tobytes()).decode()


def poses_of(recordings: Recordings, index: int) -> np.ndarray:
    """The frames (T, M, V, 3) of one sequence of a split, in metres."""
    shown = np.arange(recordings.length[index])
    if recordings.frames is None:
        return poses_at(recordings.padded(np.array([index]))[0], shown)
    frames, start = recordings.packed()
    # Copied to the host once, at most; slices on the device would be compiled for every length.
    return poses_at(np.asarray(frames), start[index] + shown)
