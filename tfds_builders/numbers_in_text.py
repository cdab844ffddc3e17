"""Numbers written in text, read in two ways that accept the same: at once, or line by line.

A number is `[+-]digits[.digits][e[+-]digits]`, a count one to nine digits; a blank is a space or a
tab, and a line ends with LF or CRLF. `Numbers` reads a whole text in its most regular form with a
few array operations. Anything else goes through `lines`, which is slower and names the flaw.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tfds_builders.raw_files import BadFile

_NUMBER = re.compile(rb"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")
_COUNT_DIGITS = 9
_FLOAT32_LIMIT = 2.0**128 - 2.0**103  # from here on float32 rounds to infinity

_MARGIN = b"0" * 8  # so that the 8 characters before and after a point lie within the text
# Masks of the first or last n of 8 characters, read as a little-endian integer; a fraction of n
# digits ends n + 1 characters after its point.
_FRACTION_MASK = np.array([(1 << 8 * max(n - 1, 0)) - 1 for n in range(10)], np.uint64)
_WHOLE_MASK = np.array([(1 << 64) - (1 << 64 - 8 * n) for n in range(8)], np.uint64)


class Numbers:
    """The numbers of a text in which every one is followed by a single space or LF.

    Attributes:
        separators: (n,) uint8, the character after each number, in order.
    """

    def __init__(self, text: bytes):
        """Finds the numbers of `text`, whose last one needs no separator.

        Raises:
            ValueError: if the text has another form, whether flawed or only less regular.
        """
        # The left margin is number -1.
        self._text = b"".join((_MARGIN, b"\n", text, b"\n", _MARGIN))
        self._bytes = np.frombuffer(self._text, np.uint8)
        self._eights = np.ndarray(len(self._text) - 7, "<u8", self._text, strides=(1,))
        self._ends, self._marks = _scan(self._bytes[len(_MARGIN) : -len(_MARGIN)])
        self._ends += len(_MARGIN)  # of number i at i + 1
        self._marks += len(_MARGIN)  # of number i at i
        self.separators = self._bytes[self._ends[1:]]

    def counts(self, indices: np.ndarray) -> list[int]:
        """The numbers at `indices`, which must be counts of up to 7 digits (exact in float32).

        Raises:
            ValueError: if one is not.
        """
        start, end = self._ends[indices] + 1, self._ends[indices + 1]
        signed_or_fractional = (self._bytes[start] < ord("0")) | (self._marks[indices] >= start)
        if (signed_or_fractional | (end - start > 7)).any():
            raise ValueError("not counts")
        return self.values(indices).astype(int).tolist()

    def values(self, indices: np.ndarray) -> np.ndarray:
        """The numbers at `indices` (n,) as (n,) float32; too large ones are infinite.

        Up to 7 digits before the point and 8 after it are, as one integer, exact in float64, and
        their quotient by 1e8 is the nearest float64, as `float` gives it.
        """
        start, end, mark = self._ends[indices] + 1, self._ends[indices + 1], self._marks[indices]
        kind, first = self._bytes[mark], self._bytes[start]
        point = np.where(kind == ord("."), mark, end)
        length = point - start - (first < ord("0"))  # a sign comes before the digits
        whole = self._eights[point - 8] & _WHOLE_MASK.take(length, mode="clip")
        fraction = self._eights[point + 1] & _FRACTION_MASK.take(end - point, mode="clip")
        values = (_as_integers(whole) * 10**8 + _as_integers(fraction)) / 1e8
        np.negative(values, where=first == ord("-"), out=values)
        unusual = (length > 7) | (end - point > 9) | (kind > ord("."))
        for i in unusual.nonzero()[0]:
            values[i] = float(self._text[start[i] : end[i]])
        with np.errstate(over="ignore"):
            return values.astype(np.float32)


def _scan(text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Checks numbers and finds their ends and marks (point, exponent, end of a number).

    Args:
        text: characters, (n,) uint8: the end of a number, then whole numbers with their ends.

    Returns:
        The places of all ends, and for each number the place of the mark before its end, which is
        its point, its exponent, or, where it has neither, the end of the number before it.

    Raises:
        ValueError: if it is not such a text.
    """
    digit = text - ord("0") < 10  # without a sign: what comes before "0" is large
    end = (text == ord(" ")) | (text == ord("\n"))
    sign = (text == ord("-")) | (text == ord("+"))
    exponent = text | 32 == ord("e")  # or E
    mark = end | exponent | (text == ord("."))
    # What may come before each character.
    follows = digit[1:] | mark[1:] & digit[:-1] | sign[1:] & (end | exponent)[:-1]
    places = mark.nonzero()[0]
    # Of one number, the point comes before the exponent: end < "." < "e", with either end.
    kinds = text[places] | 32
    is_end = kinds < ord(".")
    rising = is_end[1:] | is_end[:-1] | (kinds[:-1] < kinds[1:])
    if not (follows.all() and rising.all()):
        raise ValueError("not numbers with single separators between them")
    ends = is_end.nonzero()[0]
    return places[ends], places[ends[1:] - 1]


def _as_integers(digits: np.ndarray) -> np.ndarray:
    """The integers that 8 decimal digits, one a byte of a uint64, first to last, spell."""
    digits = digits & 0x0F0F0F0F0F0F0F0F
    pairs = (digits * (10 << 8 | 1) >> 8) & 0x00FF00FF00FF00FF
    fours = (pairs * (100 << 16 | 1) >> 16) & 0x0000FFFF0000FFFF
    return fours * (10_000 << 32 | 1) >> 32


class Line(NamedTuple):
    """One line of a file, cut at its blanks; `number` is 1-based."""

    file: str
    number: int
    words: list[bytes]

    def bad(self, reason: str) -> BadFile:
        """The error to raise for a flaw of this line."""
        return BadFile(self.file, self.number, reason)

    def count(self, what: str) -> int:
        """The one count that the line holds, called `what`. Raises BadFile if it is not that."""
        if len(self.words) != 1:
            raise self.bad(f"found {len(self.words)} values where {what} was expected alone")
        return self.count_in(self.words[0], what)

    def count_in(self, word: bytes, what: str) -> int:
        """`word`, a part of the line, as a count called `what`. Raises BadFile if it is none."""
        if not _is_count(word):
            raise self.bad(
                f"found {show(word)} where {what}, a whole number of at most {_COUNT_DIGITS} "
                "digits, was expected"
            )
        return int(word)

    def values(self, length: int, what: str, finite: int) -> list[float]:
        """The line's numbers.

        Args:
            length: how many there must be.
            what: name of such a line, for messages.
            finite: that many at the start must fit float32.

        Raises:
            BadFile: if the line is not such a one.
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
    """Every line of `content`, blank ones included; `file` is its place, for messages."""
    for number, line in enumerate(content.split(b"\n"), 1):
        words = line.removesuffix(b"\r").replace(b"\t", b" ").split(b" ")
        yield Line(file, number, [word for word in words if word])


class Reader:
    """Hands out lines one by one and refuses a file that ends too early or too late."""

    def __init__(self, lines: Iterator[Line], file: str):
        self._lines, self._file = lines, file
        self._last_number: int | None = None

    def take(self, what: str) -> Line:
        """The next line, called `what`. Raises BadFile if there is none."""
        line = next(self._lines, None)
        if line is None:
            reason = f"found the end of the file where {what} was expected"
            raise BadFile(self._file, self._last_number, reason)
        self._last_number = line.number
        return line

    def finish(self, what: str) -> None:
        """Raises BadFile if there is one more line; `what` names this end of the file."""
        for line in self._lines:
            raise line.bad(f"found {show(line.words[0])} where {what} was expected")


def show(text: bytes) -> str:
    """The start of a piece of a file, quoted for a message, other than ASCII as escapes."""
    shown = ascii(text[:24].decode("latin-1"))
    return shown if len(text) <= 24 else f"{shown}..."


def _is_count(text: bytes) -> bool:
    return text.isdigit() and len(text) <= _COUNT_DIGITS
