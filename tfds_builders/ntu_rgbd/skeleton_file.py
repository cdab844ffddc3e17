"""Reads the names and contents of NTU RGB+D's `.skeleton` files.

A file is the number of frames, then for each frame the number of bodies, then for each body a line
of 10 values (id, tracking), the number of joints and 25 lines of 12 values that start with x y z.
"""

import re
from typing import NamedTuple

import numpy as np

from tfds_builders.numbers_in_text import Numbers, Reader, lines
from tfds_builders.raw_files import BadFile

MAX_SLOTS = 4  # the public preprocessing looks at no more bodies
_JOINTS, _BODY_VALUES, _JOINT_VALUES = 25, 10, 12
_JOINTS_START = _BODY_VALUES + 1  # numbers of a body before its first joint
_BODY_SIZE = _JOINTS_START + _JOINTS * _JOINT_VALUES
# The separators after a body's numbers.
_BODY_FORM = b" " * (_BODY_VALUES - 1) + b"\n\n" + (b" " * (_JOINT_VALUES - 1) + b"\n") * _JOINTS
_XYZ = _JOINTS_START + (_JOINT_VALUES * np.arange(_JOINTS)[:, None] + np.arange(3)).ravel()

_NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})\.skeleton", re.ASCII)
_LAST = {"setup": 32, "camera": 3, "performer": 106, "replication": 2, "action": 120}


class Recording(NamedTuple):
    """What a file name says: `name` without suffix, all numbers 1-based (label = action - 1)."""

    name: str
    setup: int
    camera: int
    performer: int
    replication: int
    action: int


class ParsedSkeleton(NamedTuple):
    """Content of a file.

    Attributes:
        skeleton: (T, S, 25, 3) float32 metres with 1 <= S <= `MAX_SLOTS`; the slot of a body is its
            position in the frame's list, unused slots are zero.
        bodies: most bodies in any frame, which may be more than S.
    """

    skeleton: np.ndarray
    bodies: int


def parse_name(name: str) -> Recording:
    """Reads `SsssCcccPpppRrrrAaaa.skeleton`. Raises BadFile if it is something else."""
    fields = _NAME.fullmatch(name)
    numbers = dict(zip(_LAST, map(int, fields.groups()), strict=True)) if fields else {}
    if not numbers or any(not 1 <= numbers[key] <= last for key, last in _LAST.items()):
        ranges = ", ".join(f"{key} 1-{last}" for key, last in _LAST.items())
        raise BadFile(name, None, f"the name is not SsssCcccPpppRrrrAaaa.skeleton with {ranges}")
    return Recording(name.removesuffix(".skeleton"), **numbers)


def parse(content: bytes, file: str) -> ParsedSkeleton:
    """Reads a file's content.

    Accepted beyond the usual form: blank lines, blanks at the ends of lines, tabs. Bodies beyond
    the fourth are checked and left out.

    Args:
        content: the bytes of the file.
        file: where it is, for messages.

    Raises:
        BadFile: names the first line that is not as it must be.
    """
    try:
        return _parse_regular(content)
    except (ValueError, IndexError):
        return _parse_lines(content, file)


def _parse_regular(content: bytes) -> ParsedSkeleton:
    """Reads a flawless file in the usual form. Raises ValueError or IndexError for any other."""
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n")
    numbers = Numbers(content.strip(b" \n"))
    # Numbers alone in their lines are counts: of frames, then of bodies and their joints.
    line_ends = numbers.separators == ord("\n")
    alone = (line_ends & np.append(True, line_ends[:-1])).nonzero()[0]
    counts = numbers.counts(alone)
    at, body_counts = 1, []
    for _ in range(counts[0]):
        body_counts.append(at)
        at += 1 + counts[at]
    if at != len(counts):  # checked before anything as large as a count says is made
        raise ValueError("not as many bodies as counted")
    bodies_per_frame = [counts[i] for i in body_counts]
    form = b"\n" + b"".join(b"\n" + count * _BODY_FORM for count in bodies_per_frame)
    if not any(bodies_per_frame) or numbers.separators.tobytes() != form:
        raise ValueError("not the lines of a skeleton file")
    if set(np.delete(counts, [0, *body_counts])) != {_JOINTS}:
        raise ValueError("not 25 joints")
    starts = np.delete(alone, [0, *body_counts]) - _BODY_VALUES
    values = numbers.values((starts[:, None] + _XYZ).ravel())
    if not np.isfinite(values).all():
        raise ValueError("not within float32")
    return _fill_slots(bodies_per_frame, values)


def _parse_lines(content: bytes, file: str) -> ParsedSkeleton:
    """Reads any file, line by line."""
    reader = Reader((line for line in lines(content, file) if line.words), file)
    line = reader.take("the number of frames")
    frames = line.count("the number of frames")
    if not frames:
        raise line.bad("found no frames where at least one was expected")
    bodies_per_frame, values = [], []
    for frame in range(1, frames + 1):
        what = f"the number of bodies of frame {frame}"
        bodies_per_frame.append(reader.take(what).count(what))
        for _ in range(bodies_per_frame[-1]):
            reader.take("a body line").values(_BODY_VALUES, "a body line", finite=0)
            line = reader.take("the number of joints")
            joints = line.count("the number of joints")
            if joints != _JOINTS:
                raise line.bad(f"found {joints} joints where {_JOINTS} were expected")
            for _ in range(_JOINTS):
                line = reader.take("a joint line")
                values += line.values(_JOINT_VALUES, "a joint line", finite=3)
    reader.finish(f"the end of the file after its {frames} frames")
    if not any(bodies_per_frame):
        raise BadFile(file, None, f"found no body in its {frames} frames, at least one is expected")
    return _fill_slots(bodies_per_frame, np.array(values).astype(np.float32))


def _fill_slots(bodies_per_frame: list[int], values: np.ndarray) -> ParsedSkeleton:
    """The result, from the coordinates of all bodies in the order of the file."""
    counts = np.array(bodies_per_frame)
    bodies = int(counts.max())
    frame = np.repeat(np.arange(len(counts)), counts)
    slot = np.arange(len(frame)) - np.repeat(counts.cumsum() - counts, counts)
    kept = slot < MAX_SLOTS
    skeleton = np.zeros((len(counts), min(bodies, MAX_SLOTS), _JOINTS, 3), np.float32)
    skeleton[frame[kept], slot[kept]] = values.reshape(-1, _JOINTS, 3)[kept]
    return ParsedSkeleton(skeleton, bodies)
