"""NTU RGB+D's `.skeleton` files: names and contents.

A file is the number of frames, then for each frame the number of bodies, then for each body a line
of 10 values (id, tracking), the number of joints and 25 lines of 12 values that start with x y z.
"""

import itertools
import re
from typing import NamedTuple

import numpy as np

from pcm3_jax.data.formats.raw_files import BadFile
from pcm3_jax.data.formats.text import Reader, lines, separators, to_count, to_float32

MAX_SLOTS = 4  # the public preprocessing ignores further bodies
_JOINTS, _BODY_VALUES, _JOINT_VALUES = 25, 10, 12
_BODY_ROWS = 2 + _JOINTS
# The separators after the numbers of a body, and which of its lines are joints.
_BODY_FORM = b" " * (_BODY_VALUES - 1) + b"\n\n" + (b" " * (_JOINT_VALUES - 1) + b"\n") * _JOINTS
_IS_JOINT = b"\0\0" + b"\1" * _JOINTS

_NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})\.skeleton", re.ASCII)
_LAST = {"setup": 32, "camera": 3, "performer": 106, "replication": 2, "action": 120}


class Recording(NamedTuple):
    """Fields of a file name: `name` without suffix, all numbers 1-based (label = action - 1)."""

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
        bodies: the largest number of bodies in any frame; may exceed S.
    """

    skeleton: np.ndarray
    bodies: int


def parse_name(name: str) -> Recording:
    """Parses `SsssCcccPpppRrrrAaaa.skeleton`. Raises BadFile for any other name."""
    fields = _NAME.fullmatch(name)
    numbers = dict(zip(_LAST, map(int, fields.groups()), strict=True)) if fields else {}
    if not numbers or any(not 1 <= numbers[key] <= last for key, last in _LAST.items()):
        ranges = ", ".join(f"{key} 1-{last}" for key, last in _LAST.items())
        raise BadFile(name, None, f"the name is not SsssCcccPpppRrrrAaaa.skeleton with {ranges}")
    return Recording(name.removesuffix(".skeleton"), **numbers)


def parse(content: bytes, file: str) -> ParsedSkeleton:
    """Parses the content of a file.

    Also accepts blank lines, blanks at the ends of lines, and tabs. Bodies beyond the fourth of a
    frame are checked and then dropped.

    Args:
        content: the bytes of the file.
        file: where it is, for messages.

    Raises:
        BadFile: names the first malformed line.
    """
    try:
        return _parse_regular(content)
    except (ValueError, IndexError):
        return _parse_lines(content, file)


def _parse_regular(content: bytes) -> ParsedSkeleton:
    """Parses a valid file in the usual form. Raises ValueError or IndexError for any other."""
    text = content.replace(b"\r\n", b"\n").strip(b" \n")
    form, rows = separators(text), text.split(b"\n")
    bodies_per_frame: list[int] = []
    joint_counts: list[bytes] = []
    start = 1
    for _ in range(to_count(rows[0])):
        bodies = to_count(rows[start])
        end = start + 1 + bodies * _BODY_ROWS
        bodies_per_frame.append(bodies)
        joint_counts += rows[start + 2 : end : _BODY_ROWS]
        start = end
    if start != len(rows):  # checked before any allocation of the declared size
        raise ValueError("not as many bodies as counted")
    if form + b"\n" != b"\n" + b"".join(b"\n" + n * _BODY_FORM for n in bodies_per_frame):
        raise ValueError("not the numbers of a skeleton file")
    if set(joint_counts) != {b"%d" % _JOINTS}:
        raise ValueError("not 25 joints, or no body")
    is_joint = b"\0" + b"".join(b"\0" + n * _IS_JOINT for n in bodies_per_frame)
    xyz = [row.split(b" ", 3)[:3] for row in itertools.compress(rows, is_joint)]
    # Faster than np.fromstring, which would convert all the other numbers, too.
    values = np.fromiter(map(float, itertools.chain.from_iterable(xyz)), float, 3 * len(xyz))
    return _fill_slots(bodies_per_frame, to_float32(values))


def _parse_lines(content: bytes, file: str) -> ParsedSkeleton:
    """Parses any file, line by line."""
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
    """Builds the result from the coordinates of all bodies in file order."""
    counts = np.array(bodies_per_frame)
    bodies = int(counts.max())
    frame = np.repeat(np.arange(len(counts)), counts)
    slot = np.arange(len(frame)) - np.repeat(counts.cumsum() - counts, counts)
    kept = slot < MAX_SLOTS
    skeleton = np.zeros((len(counts), min(bodies, MAX_SLOTS), _JOINTS, 3), np.float32)
    skeleton[frame[kept], slot[kept]] = values.reshape(-1, _JOINTS, 3)[kept]
    return ParsedSkeleton(skeleton, bodies)
