"""IntelliRehabDS's text files of simplified joint positions: names and contents."""

import re
from typing import NamedTuple

import numpy as np

from pcm3_jax.data.formats.raw_files import BadFile
from pcm3_jax.data.formats.text import read_table

# Physiotherapists, patients (there is no 208), students.
SUBJECTS = (*range(101, 108), *range(201, 208), *range(209, 218), *range(301, 308))
_NAME = re.compile(r"(\d{1,9})_(\d+)_([0-8])_(\d+)_([123])_([A-Za-z-]+)\.txt", re.ASCII)
_NUMBERS = 75  # 25 joints of x, y, z


class Recording(NamedTuple):
    """Fields of a file name: `name` without suffix, `subject`, `gesture` (0-8)."""

    name: str
    subject: int
    gesture: int


def parse_name(name: str, file: str) -> Recording:
    """Parses `SubjectId_DateId_Gesture_Repetition_Correct_Position.txt`.

    Args:
        name: the name without folders.
        file: where the file is, for messages.

    Raises:
        BadFile: for any other name.
    """
    fields = _NAME.fullmatch(name)
    if fields is None:
        raise BadFile(
            file,
            None,
            "the name is not SubjectId_DateId_Gesture_Repetition_Correct_Position.txt with "
            "gesture 0-8 and correct 1-3",
        )
    if int(fields[1]) not in SUBJECTS:
        raise BadFile(file, None, f"no subject has the number {fields[1]}")
    return Recording(name.removesuffix(".txt"), int(fields[1]), int(fields[3]))


def parse(content: bytes, file: str) -> np.ndarray:
    """Parses a recording: one line per frame, 75 numbers separated by commas (or blanks).

    Args:
        content: the bytes of the file.
        file: where it is, for messages.

    Returns:
        (T, 25, 3) float32 metres; joints that are all zero for some frames are interpolated
        (`bridge_lost_joints`).

    Raises:
        BadFile: names the first malformed line.
    """
    frames = read_table(content, file, (_NUMBERS,), "a frame")
    if not frames.any():
        raise BadFile(file, None, "no joint was seen in any frame")
    return bridge_lost_joints(frames.reshape(-1, 25, 3))


def bridge_lost_joints(skeleton: np.ndarray) -> np.ndarray:
    """Interpolates all-zero joints over time, (T, 25, 3) to (T, 25, 3); constant at the ends.

    One recording lacks the trunk in one frame; without interpolation, normalisation could not
    centre that frame, and would leave it metres away from its neighbours. Joints that are zero in
    all frames, and frames in which all joints are zero, stay as they are.
    """
    seen = np.any(skeleton, axis=-1)
    present = np.any(seen, axis=-1)
    bridged = skeleton.copy()
    time = np.arange(len(skeleton))
    for joint in np.flatnonzero(~seen[present].all(axis=0) & seen.any(axis=0)):
        lost = present & ~seen[:, joint]
        known = seen[:, joint]
        for axis in range(3):
            bridged[lost, joint, axis] = np.interp(
                time[lost], time[known], skeleton[known, joint, axis]
            )
    return bridged
