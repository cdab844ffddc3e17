"""PKU-MMD's text files: the skeletons of a video, its labels, and the lists of a split."""

import re
from typing import NamedTuple

import numpy as np

from pcm3_jax.data.formats.raw_files import BadFile
from pcm3_jax.data.formats.text import Line, Reader, lines, read_table, show, whole_lines

NUM_ACTIONS = 51
_VALUES = (75, 150)  # a frame: one or two persons, 25 joints, xyz
_VIDEO_NAME = re.compile(rb"[A-Za-z0-9_-]+")
_HEADINGS = {
    "train": (b"Training videos:",),
    "test": (b"Validataion videos:", b"Validation videos:"),  # the data set misspells it
}


class Interval(NamedTuple):
    """One action in a video: `action` 0-based, frames [`start`, `stop`), 0-based `row` of the file.

    In a valid interval 0 <= `start` < `stop` <= length of the video.
    """

    action: int
    start: int
    stop: int
    confidence: int
    row: int


class Remark(NamedTuple):
    """A remark on the row in `line` (1-based): `what` is the same for all such rows."""

    line: int
    what: str
    found: str


class Labels(NamedTuple):
    """The labels of a video.

    Attributes:
        intervals: of the usable rows, ordered by start.
        flaws: of rows that are not four whole numbers; they are left out.
        left_out: rows without an action or without frames in the video.
        mended: rows of `intervals` whose end was moved or which were out of order.
    """

    intervals: list[Interval]
    flaws: list[BadFile]
    left_out: list[Remark]
    mended: list[Remark]


def parse_video(content: bytes, file: str) -> np.ndarray:
    """Parses the skeletons of a video: one line per frame, of 75 or 150 numbers.

    Genuine files have 150 numbers separated by blanks; those of one person may have 75, and commas
    may separate them.

    Args:
        content: the bytes of the file.
        file: where it is, for messages.

    Returns:
        (T, M, 25, 3) float32 metres: one or two persons, zeros where absent.

    Raises:
        BadFile: names the first malformed line.
    """
    values = read_table(content, file, _VALUES, "a frame")
    return values.reshape(len(values), -1, 25, 3)


def parse_labels(content: bytes, file: str, num_frames: int) -> Labels:
    """Parses the labels of a video: rows `action,start,end,confidence`, action 1-based.

    Public loaders of the genuine files work around rows that end before their start or after the
    video, or that are out of order.  Here an end after the video is moved to the video's end, and
    rows are sorted; a row that cannot be used costs itself only.  Blank lines are ignored.

    Args:
        content: the bytes of the file.
        file: where it is, for messages.
        num_frames: length of the video.

    Raises:
        BadFile: the file is empty.
    """
    labels = Labels([], [], [], [])
    last = 0
    every = [line for line in lines(content, file) if line.words]
    if not every:
        raise BadFile(file, None, "found an empty file where labels were expected")
    for line in every:
        try:
            action, start, stop, confidence = _label_fields(line)
        except BadFile as flaw:
            labels.flaws.append(flaw)
            continue
        if reason := _unusable(action, start, stop, num_frames):
            labels.left_out.append(Remark(line.number, *reason))
            continue
        if stop > num_frames:
            found = f"frames {start} to {stop} of {num_frames}"
            labels.mended.append(Remark(line.number, "label rows cut at the video's end", found))
        if start < last:
            found = f"start {start} after {last}"
            labels.mended.append(Remark(line.number, "label rows moved into order", found))
        last = start
        end, row = min(stop, num_frames), line.number - 1
        labels.intervals.append(Interval(action - 1, start, end, confidence, row))
    labels.intervals.sort(key=lambda interval: interval.start)
    return labels


def _label_fields(line: Line) -> list[int]:
    """Action, start, end and confidence.  Raises BadFile if the line has another form."""
    fields = [field.strip(b" ") for field in b" ".join(line.words).split(b",")]
    if len(fields) != 4:
        raise line.bad(f"found {len(fields)} fields where action,start,end,confidence has 4")
    columns = ("the action", "the start", "the end", "the confidence")
    return [*map(line.count_in, fields, columns)]


def _unusable(action: int, start: int, stop: int, num_frames: int) -> tuple[str, str] | None:
    """Why a row cannot be used: in the words of all such rows, and what was found."""
    frames = f"frames {start} to {stop}"
    if not 1 <= action <= NUM_ACTIONS:
        return f"label rows whose action is not 1-{NUM_ACTIONS}", f"action {action}"
    if start >= stop:
        return "label rows that do not end after their start", frames
    if start >= num_frames:
        return "label rows after the video's end", f"{frames} of {num_frames}"
    return None


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
    reader = Reader(whole_lines(content, file), file)
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
