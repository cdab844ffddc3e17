"""`labels.csv` of a user's own data: the files with their labels, performers and splits.

The first line is `file,label,performer,split`. In every other line that is not blank, `file` is a
path relative to the folder of `labels.csv`, with `/` between folders; `label` is any text;
`performer` a whole number; `split` is `train` or `test`. UTF-8; commas and quotes as in RFC 4180.
"""

import csv
import io
import re
from collections.abc import Iterator
from typing import NamedTuple

from pcm3_jax.data.formats.raw_files import BadFile

COLUMNS = ("file", "label", "performer", "split")
SPLITS = ("train", "test")


class Row(NamedTuple):
    """One line: `file` as written, `label`, `performer`, `split`, and its 1-based `line`."""

    file: str
    label: str
    performer: int
    split: str
    line: int


class Table(NamedTuple):
    """The valid lines of `labels.csv`, in order, and the flaws of the others."""

    rows: list[Row]
    flaws: list[BadFile]


def read_labels(content: bytes, file: str, *, splits: bool = True) -> Table:
    """Parses the table and checks every line by itself and against the others.

    Args:
        content: the bytes of the table.
        file: where it is, for messages.
        splits: whether every label of the test split must occur in the train split.

    Raises:
        BadFile: the table as a whole cannot be read.
    """
    rows: dict[str, Row] = {}
    flaws = []
    lines = _lines(content, file)
    number, first = next(lines, (1, []))
    if tuple(cell.strip() for cell in first) != COLUMNS:
        found, expected = ",".join(first), ",".join(COLUMNS)
        raise BadFile(file, number, f"found {found!r} where the columns {expected} were expected")
    for number, cells in lines:
        try:
            row = _row(cells, number)
            if row.file in rows:
                other = rows[row.file].line
                raise ValueError(f"found {row.file!r} a second time (first in line {other})")
            rows[row.file] = row
        except ValueError as error:
            flaws.append(BadFile(file, number, str(error)))
    if not rows and not flaws:
        raise BadFile(file, None, "found no line after the first where sequences were expected")
    trained = {row.label for row in rows.values() if row.split == "train" or not splits}
    for row in rows.values():
        if row.label not in trained:
            reason = f"found {row.label!r} in the test split, but nowhere in the train split"
            flaws.append(BadFile(file, row.line, reason))
    return Table([row for row in rows.values() if row.label in trained], flaws)


def _lines(content: bytes, file: str) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of every line that is not blank."""
    try:
        text = content.decode("utf-8-sig")  # spreadsheets write a byte order mark
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        reason = "found bytes that are not UTF-8 where text was expected"
        raise BadFile(file, line, reason) from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise BadFile(file, reader.line_num, f"found a line that is not CSV: {error}") from error


def _row(cells: list[str], line: int) -> Row:
    """Parses one line.  Raises ValueError with a clause that says what is wrong."""
    if len(cells) != len(COLUMNS):
        raise ValueError(f"found {len(cells)} values where {', '.join(COLUMNS)} were expected")
    file, label, performer, split = (cell.strip() for cell in cells)
    if not label or not label.isprintable():
        raise ValueError(f"found {label!r} where a label was expected")
    if not re.fullmatch("[0-9]{1,9}", performer):
        raise ValueError(f"found {performer!r} where the number of the performer was expected")
    if split not in SPLITS:
        raise ValueError(f"found {split!r} where train or test was expected")
    return Row(file, label, int(performer), split, line)
