"""PKU-MMD's text files: the skeletons of a video, its labels, and the lists of a split."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pcm3_jax.data.formats.raw_files import BadFile
from pcm3_jax.data.formats.text import Line, Reader, lines, separators, show, to_float32

NUM_ACTIONS = 51
_SHAPE = (2, 25, 3)  # a frame: person, joint, xyz
_VALUES = 150
_FRAME_FORM = b" " * (_VALUES - 1) + b"\n"
_VIDEO_NAME = re.compile(rb"[A-Za-z0-9_-]+")
_HEADINGS = {
    "train": (b"Training videos:",),
    "test": (b"Validataion videos:", b"Validation videos:"),  # the data set misspells it
}


class Interval(NamedTuple):
    """One action in a video: `action` 0-based, frames [`start`, `stop`)."""

    action: int
    start: int
    stop: int
    confidence: int


def parse_video(content: bytes, file: str) -> np.ndarray:
    """Parses the skeletons of a video: one line per frame, 150 numbers separated by blanks.

    Args:
        content: the bytes of the file.
        file: where it is, for messages.

    Returns:
        (T, 2, 25, 3) float32 metres: two persons, zeros where absent.

    Raises:
        BadFile: names the first malformed line.
    """
    try:
        # Lines after the first begin with a space.
        text = content.replace(b"\r\n", b"\n").rstrip(b" \n").replace(b"\n ", b"\n")
        form = separators(text) + b"\n"
        if form != len(form) // _VALUES * _FRAME_FORM:
            raise ValueError("not 150 numbers a line")
        values = to_float32(np.fromstring(text, sep=" "))
    except ValueError:  # malformed, or valid in a less regular form
        rows = [line.values(_VALUES, "a frame", _VALUES) for line in _whole_lines(content, file)]
        values = np.array(rows).astype(np.float32)
    return values.reshape(-1, *_SHAPE)


def parse_labels(content: bytes, file: str, num_frames: int) -> list[Interval]:
    """Parses the labels of a video: rows `action,start,end,confidence`, action 1-based.

    Args:
        content: the bytes of the file.
        file: where it is, for messages.
        num_frames: length of the video.

    Raises:
        BadFile: names the first malformed row.
    """
    intervals: list[Interval] = []
    for line in _whole_lines(content, file):
        fields = [field.strip(b" ") for field in b" ".join(line.words).split(b",")]
        if len(fields) != 4:
            raise line.bad(f"found {len(fields)} fields where action,start,end,confidence has 4")
        columns = ("the action", "the start", "the end", "the confidence")
        action, start, stop, confidence = map(line.count_in, fields, columns)
        if not 1 <= action <= NUM_ACTIONS:
            raise line.bad(f"found action {action} where 1-{NUM_ACTIONS} was expected")
        if not start < stop <= num_frames:
            raise line.bad(
                f"found frames {start} to {stop} where start < end <= {num_frames}, the length "
                "of the video, was expected"
            )
        if intervals and start < intervals[-1].start:
            raise line.bad(
                f"found start {start} out of order, at least {intervals[-1].start} was expected"
            )
        intervals.append(Interval(action - 1, start, stop, confidence))
    return intervals


def parse_split(content: bytes, file: str) -> dict[str, list[str]]:
    """Parses a split: two headings, each followed by a line of names.

    Names are separated by commas or blanks.

    Args:
        content: the bytes of the file.
        file: where it is, for messages.

    Returns:
        The names of the videos of "train" and "test", in file order.

    Raises:
        BadFile: names the first malformed line.
    """
    reader = Reader(_whole_lines(content, file), file)
    split: dict[str, list[str]] = {}
    line_of: dict[bytes, int] = {}
    for key, headings in _HEADINGS.items():
        expected = f"{headings[0].decode()!r}"
        line = reader.take(expected)
        text = b" ".join(line.words)
        if text not in headings:
            raise line.bad(f"found {show(text)} where {expected} was expected")
        line = reader.take("a list of videos")
        names = [name for word in line.words for name in word.split(b",") if name]
        if not names:
            raise line.bad("found no name where a list of videos was expected")
        for name in names:
            if not _VIDEO_NAME.fullmatch(name):
                raise line.bad(f"found {show(name)} where the name of a video was expected")
            if name in line_of:
                raise line.bad(
                    f"found {show(name)} a second time (first in line {line_of[name]}), each "
                    "video was expected once"
                )
            line_of[name] = line.number
        split[key] = [name.decode() for name in names]
    reader.finish("the end of the file")
    return split


def _whole_lines(content: bytes, file: str) -> Iterator[Line]:
    """The lines, without trailing blank ones.

    Raises:
        BadFile: another line is blank, or the file is empty.
    """
    every = list(lines(content, file))
    while every and not every[-1].words:
        every.pop()
    if not every:
        raise BadFile(file, None, "found an empty file where text was expected")
    for line in every:
        if not line.words:
            raise line.bad("found a blank line where text was expected")
        yield line
