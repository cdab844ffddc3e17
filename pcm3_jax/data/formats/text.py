"""Numbers in text: a fast check of a whole text, and a line reader that names the first flaw.

Both accept the same grammar. A number is `[+-]digits[.digits][e[+-]digits]`, a count is
one to nine digits, blanks are spaces and tabs, a line ends with LF or CRLF, and a byte order mark
may come first.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from pcm3_jax.data.formats.raw_files import BadFile

_NUMBER = re.compile(rb"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")
_NAN = re.compile(rb"[+-]?nan", re.IGNORECASE)
_COUNT_DIGITS = 9
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_FLOAT32_LIMIT = 2.0**128 - 2.0**103  # from here on float32 rounds to infinity

# Kinds of characters: digit 0, sign 1, point 2, exponent 3, separator 4.
_KINDS = bytes.maketrans(b"0123456789+-.eE \n", bytes(10) + b"\1\1\2\3\3\4\4")
_LOWER = bytes.maketrans(b"E", b"e")
# Allowed pairs of adjacent kinds, each encoded as 8 * first + second.
_PAIRS = bytes(
    8 * kind + after
    for kind, followers in enumerate([(0, 2, 3, 4), (0,), (0,), (0, 1), (0, 1)])
    for after in followers
)


def separators(text: bytes) -> bytes:
    """The separators between the numbers of `text`: each must be a single space or LF.

    Raises:
        ValueError: if the text has any other form: it is malformed, or valid but less regular.
    """
    marks = text.translate(_LOWER, b"0123456789+-")
    found = marks.translate(None, b".e")
    kinds = np.frombuffer(b"".join((b"\n", text, b"\n")).translate(_KINDS), np.uint8)
    pairs = (8 * kinds[:-1] + kinds[1:]).tobytes()
    if (
        found.strip(b" \n")
        or pairs.translate(None, _PAIRS)
        # Checking adjacent pairs misses a second point or exponent, and a point after an exponent.
        or any(wrong in marks for wrong in (b"..", b"e.", b"ee"))
    ):
        raise ValueError("not numbers with single separators between them")
    return found


def to_float32(values: np.ndarray) -> np.ndarray:
    """`values` as float32. Raises ValueError if one is too large."""
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("not within float32")
    return values


def to_count(word: bytes) -> int:
    """A count as an integer. Raises ValueError if `word` is not a count."""
    if not word.isdigit() or len(word) > _COUNT_DIGITS:
        raise ValueError("not a count")
    return int(word)


def numbers_of_line(line: bytes, *, nan: bool = False) -> list[float]:
    """The numbers of a line, separated by blanks, or by commas with or without blanks.

    Args:
        line: with or without its end; a blank line has no numbers.
        nan: whether `nan`, in any case and with any sign, is a number, too.

    Raises:
        ValueError: what was found and what was expected, as one clause.
    """
    return to_numbers(split_numbers(line.removesuffix(b"\n").removesuffix(b"\r")), nan=nan)


def split_numbers(line: bytes) -> list[bytes]:
    """The words of a line, separated by blanks, or by commas with or without blanks."""
    line = line.replace(b"\t", b" ")
    if b"," in line:
        return [word.strip(b" ") for word in line.split(b",")]
    return [word for word in line.split(b" ") if word]


def to_numbers(
    words: Sequence[bytes], *, finite: int | None = None, nan: bool = False
) -> list[float]:
    """The first `finite` words, by default all, as numbers that fit float32.

    Args:
        words: each must be a number, also those after the first `finite`.
        finite: how many to convert.
        nan: whether `nan`, in any case and with any sign, is a number, too.

    Raises:
        ValueError: what was found and what was expected, as one clause.
    """
    for word in words:
        if not (_NUMBER.fullmatch(word) or (nan and _NAN.fullmatch(word))):
            raise ValueError(f"found {show(word)} where a number was expected")
    values = list(map(float, words[:finite]))
    for word, value in zip(words, values, strict=False):
        if abs(value) >= _FLOAT32_LIMIT:
            raise ValueError(f"found {show(word)} where a number within float32 was expected")
    return values


class Line(NamedTuple):
    """One line of a file, split at its blanks; `number` is 1-based."""

    file: str
    number: int
    words: list[bytes]

    def bad(self, reason: str) -> BadFile:
        """The error to raise for a flaw in this line."""
        return BadFile(self.file, self.number, reason)

    def count(self, what: str) -> int:
        """The count that is the only word of the line; `what` names it in the BadFile raised."""
        if len(self.words) != 1:
            raise self.bad(f"found {len(self.words)} values where only {what} was expected")
        return self.count_in(self.words[0], what)

    def count_in(self, word: bytes, what: str) -> int:
        """`word`, a part of the line, as a count; `what` names it in the BadFile raised."""
        try:
            return to_count(word)
        except ValueError:
            raise self.bad(
                f"found {show(word)} where {what}, a whole number of at most {_COUNT_DIGITS} "
                "digits, was expected"
            ) from None

    def values(self, length: int, what: str, finite: int) -> list[float]:
        """The line's first `finite` numbers, which must fit float32, of `length` numbers in all.

        Raises:
            BadFile: if the line has another form; `what` names it in the message.
        """
        if len(self.words) != length:
            raise self.bad(f"found {len(self.words)} values where {what} has {length}")
        try:
            return to_numbers(self.words, finite=finite)
        except ValueError as error:
            raise self.bad(str(error)) from None


def lines(content: bytes, file: str) -> Iterator[Line]:
    """Every line of `content`, blank ones included; `file` names the file in messages."""
    text = content.removeprefix(_BYTE_ORDER_MARK)
    for number, line in enumerate(text.split(b"\n"), 1):
        words = line.removesuffix(b"\r").replace(b"\t", b" ").split(b" ")
        yield Line(file, number, [word for word in words if word])


def whole_lines(content: bytes, file: str) -> Iterator[Line]:
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


def read_table(content: bytes, file: str, widths: Sequence[int], what: str) -> np.ndarray:
    """Parses rows of numbers separated by blanks or commas; trailing blank lines are ignored.

    Args:
        content: the bytes of the file.
        file: where it is, for messages.
        widths: how many numbers a row may have; all rows have as many as the first.
        what: names a row in messages.

    Returns:
        (rows, width) float32.

    Raises:
        BadFile: names the first malformed line.
    """
    try:
        return _read_regular_table(content, widths)
    except ValueError:  # malformed, or valid in a less regular form
        rows: list[list[float]] = []
        for line in whole_lines(content, file):
            row = line._replace(words=split_numbers(b" ".join(line.words)))
            if not rows and len(row.words) not in widths:
                expected = " or ".join(map(str, widths))
                found = f"found {len(row.words)} values"
                raise row.bad(f"{found} where {what} has {expected}") from None
            width = len(rows[0]) if rows else len(row.words)
            rows.append(row.values(width, what, width))
        return np.array(rows).astype(np.float32)


def _read_regular_table(content: bytes, widths: Sequence[int]) -> np.ndarray:
    """Parses a valid table in the usual form.  Raises ValueError for any other."""
    text = content.removeprefix(_BYTE_ORDER_MARK).replace(b"\r\n", b"\n").rstrip(b" \n")
    text = text.replace(b"\n ", b"\n")  # PKU-MMD's lines after the first begin with a space
    if b"," in text:
        text = text.replace(b", ", b",")
        if b" " in text:  # such as decimal commas between blanks
            raise ValueError("blanks and commas between numbers")
        text = text.replace(b",", b" ")
    form = separators(text) + b"\n"
    width = form.index(b"\n") + 1
    if width not in widths or form != len(form) // width * (b" " * (width - 1) + b"\n"):
        raise ValueError("not as many numbers in each row")
    return to_float32(np.fromstring(text, sep=" ")).reshape(-1, width)


class Reader:
    """Reads lines one by one; raises BadFile if the file is too short or too long."""

    def __init__(self, lines: Iterator[Line], file: str):
        self._lines, self._file = lines, file
        self._last_number: int | None = None

    def take(self, what: str) -> Line:
        """The next line. Raises BadFile, which calls the line `what`, at the end of the file."""
        line = next(self._lines, None)
        if line is None:
            reason = f"found the end of the file where {what} was expected"
            raise BadFile(self._file, self._last_number, reason)
        self._last_number = line.number
        return line

    def finish(self, what: str) -> None:
        """Raises BadFile if there is another line; `what` names the expected end."""
        for line in self._lines:
            raise line.bad(f"found {show(line.words[0])} where {what} was expected")


def show(text: bytes) -> str:
    """The start of a piece of a file, quoted for a message, with escapes for all but ASCII."""
    shown = ascii(text[:24].decode("latin-1"))
    return shown if len(text) <= 24 else f"{shown}..."
