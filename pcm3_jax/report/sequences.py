"""Skeleton sequences of the page: subsampled, quantised to int16, each stored once."""

from __future__ import annotations

import base64
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pcm3_jax.data.batch import Clips
from pcm3_jax.data.joint_layouts import KINECT_V2_JOINTS
from pcm3_jax.data.normalization import normalization_of, normalize_sequence
from pcm3_jax.data.recordings import Recordings
from pcm3_jax.data.skeleton import BODY_PARTS, PARENTS, missing_joints, poses_at

# Frames per second of Kinect v2.
FRAME_RATE = 30
# Coordinate of a missing joint, outside the range of the others.
_MISSING = np.iinfo(np.int16).min
# What the scripts of a page know about joints.
SKELETON = {
    "parents": PARENTS.tolist(),
    "names": KINECT_V2_JOINTS,
    "left": [*BODY_PARTS["left_arm"], *BODY_PARTS["left_leg"]],
    "right": [*BODY_PARTS["right_arm"], *BODY_PARTS["right_leg"]],
}


class Pool:
    """All sequences of a page; other parts of it refer to them by number.

    Attributes:
      sequences: one {"frames", "persons", "scale" (metres per unit), "seconds", "up" (which
        coordinate points up), "data" (base64 of little-endian int16 (T, M, V, 3), -32768 for
        missing joints)}.
    """

    def __init__(self) -> None:
        self.sequences: list[dict[str, Any]] = []
        self._numbers: dict[tuple[str, int, int], int] = {}

    def add(
        self, poses: np.ndarray, up: int, seconds: float, visible: np.ndarray | None = None
    ) -> int:
        """Adds a sequence, and returns its number.

        Args:
          poses: (T, M, V, 3) metres; a second person who is absent is left out.
          up: the coordinate that points up: 1, as in Kinect's axes, or 2, as in normalised poses.
          seconds: how long the sequence lasts.
          visible: (T, M, V) booleans, False where a joint is missing, besides those that `unseen`
            finds.
        """
        poses = np.asarray(poses, np.float32)
        missing = unseen(poses)
        if visible is not None:
            missing |= ~visible
        if not poses[:, 1:].any():
            poses, missing = poses[:, :1], missing[:, :1]
        scale = max(float(np.abs(poses).max()), 1e-6) / np.iinfo(np.int16).max
        quantised = np.where(missing[..., None], _MISSING, np.round(poses / scale))
        self.sequences.append(
            {
                "frames": poses.shape[0],
                "persons": poses.shape[1],
                "scale": scale,
                "seconds": round(max(seconds, 0.1), 2),
                "up": up,
                "data": encoded(quantised, "<i2"),
            }
        )
        return len(self.sequences) - 1

    def add_recording(self, recordings: Recordings, index: int, frames: int) -> int:
        """Adds a sequence of a split, subsampled to ``frames`` frames, once; returns its number."""
        key = (recordings.split, index, frames)
        if key not in self._numbers:
            poses = poses_of(recordings, index)
            up, seconds = up_axis(recordings.data_name), len(poses) / FRAME_RATE
            self._numbers[key] = self.add(poses[spread_frames(len(poses), frames)], up, seconds)
        return self._numbers[key]


def unseen(poses: np.ndarray) -> np.ndarray:
    """Which joints of poses (T, M, V, 3) are missing or of an absent person, (T, M, V)."""
    absent = ~np.asarray(poses.any(axis=(2, 3)))
    return missing_joints(poses) | absent[..., None]


def up_axis(data_name: str) -> int:
    """The coordinate of a data set's poses that points up."""
    return 2 if normalization_of(data_name) is normalize_sequence else 1


def spread_frames(length: int, most: int) -> np.ndarray:
    """Indices of at most ``most`` evenly spaced frames of a sequence, with the first and last."""
    return np.linspace(0, length - 1, min(most, length)).round().astype(int)


def spread_labels(indices: np.ndarray, labels: np.ndarray) -> list[int]:
    """Orders indices of sequences round-robin over the sequences' labels."""
    seen: Counter[int] = Counter()
    rounds = []
    for label in labels[indices].tolist():
        seen[label] += 1
        rounds.append(seen[label])
    return indices[np.argsort(rounds, kind="stable")].tolist()


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
