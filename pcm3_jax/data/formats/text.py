"""Numbers in text: a fast check of a whole text, and a line reader that names the first flaw.

Both accept the same grammar. A number is `[+-]digits[.digits][e[+-]digits]`, a count is
one to nine digits, blanks are spaces and tabs, and a line ends with LF or CRLF.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pcm3_jax.data.formats.raw_files import BadFile

_NUMBER = re.compile(rb"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")
_COUNT_DIGITS = 9
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
        for word in self.words:
            if not _NUMBER.fullmatch(word):
                raise self.bad(f"found {show(word)} where a number was expected")
        values = list(map(float, self.words[:finite]))
        for word, value in zip(self.words, values, strict=False):
            if abs(value) >= _FLOAT32_LIMIT:
                raise self.bad(f"found {show(word)} where a number within float32 was expected")
        return values


def lines(content: bytes, file: str) -> Iterator[Line]:
    """Every line of `content`, blank ones included; `file` names the file in messages."""
    for number, line in enumerate(content.split(b"\n"), 1):
        words = line.removesuffix(b"\r").replace(b"\t", b" ").split(b" ")
        yield Line(file, number, [word for word in words if word])


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
