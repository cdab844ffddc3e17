"""Reads `labels.csv`: which files there are, what they show, who performs, and their split.

The first line is `file,label,performer,split`. In every other one that is not blank, `file` is a
path from the folder of `labels.csv`, with `/` between folders; `label` is any text; `performer` a
whole number; `split` is `train` or `test`. UTF-8; commas and quotes as in RFC 4180.
"""

import csv
import io
import re
from collections.abc import Iterator
from typing import NamedTuple

from tfds_builders.raw_files import BadFile

COLUMNS = ("file", "label", "performer", "split")
SPLITS = ("train", "test")
_PERFORMER = re.compile(r"\d{1,9}", re.ASCII)


class Row(NamedTuple):
    """One line: `file` as written, `label`, `performer`, `split`, and its 1-based `line`."""

    file: str
    label: str
    performer: int
    split: str
    line: int


class Table(NamedTuple):
    """The lines of `labels.csv` that can be used, in order, and what is wrong with the others."""

    rows: list[Row]
    flaws: list[BadFile]


def read_labels(content: bytes, file: str) -> Table:
    """Checks every line by itself and against those before it.

    Args:
        content: the bytes of the table.
        file: where it is, for messages.

    Raises:
        BadFile: the table as a whole cannot be read.
    """
    rows: dict[str, Row] = {}
    flaws = []
    lines = _lines(content, file)
    number, first = next(lines, (1, []))
    if tuple(first) != COLUMNS:
        raise BadFile(file, number, f"found {first!r} where the columns {COLUMNS!r} were expected")
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
    return _without_untrained(Table(list(rows.values()), flaws), file)


def _lines(content: bytes, file: str) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of every line that is not blank."""
    try:
        # Spreadsheets write a mark before the first letter.
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadFile(
            file, line, "found bytes that are not UTF-8 where text was expected"
        ) from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise BadFile(file, reader.line_num, f"found no line of a CSV file: {error}") from error
        if cells is None:
            return
        if cells:
            yield reader.line_num, cells


def _row(cells: list[str], line: int) -> Row:
    """Raises ValueError with what is wrong."""
    if len(cells) != len(COLUMNS):
        raise ValueError(f"found {len(cells)} values where {', '.join(COLUMNS)} were expected")
    file, label, performer, split = (cell.strip() for cell in cells)
    if not label or not label.isprintable():
        raise ValueError(f"found {label!r} where a label was expected")
    if not _PERFORMER.fullmatch(performer):
        raise ValueError(f"found {performer!r} where the number of the performer was expected")
    if split not in SPLITS:
        raise ValueError(f"found {split!r} where train or test was expected")
    return Row(file, label, int(performer), split, line)


def _without_untrained(table: Table, file: str) -> Table:
    trained = {row.label for row in table.rows if row.split == "train"}
    kept = [row for row in table.rows if row.label in trained]
    flaws = [
        BadFile(
            file, row.line, f"found {row.label!r} in the test split, but nowhere in the train split"
        )
        for row in table.rows
        if row.label not in trained
    ]
    return Table(kept, table.flaws + flaws)
