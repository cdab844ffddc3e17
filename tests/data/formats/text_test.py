"""The fast check accepts exactly the numbers of the line reader, with the values of `float`."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcm3_jax.data.formats.text import (
    Line,
    numbers_of_line,
    separators,
    to_count,
    to_float32,
)
from tests.data.formats.plain_parsers import is_number

DECIMALS = st.one_of(
    st.from_regex(r"[+-]?[0-9]{1,6}(\.[0-9]{1,14})?([eE][+-]?[0-9]{1,2})?", fullmatch=True),
    st.floats(-1e38, 1e38).map(repr),
    st.floats(-10, 10).map("{:.7g}".format),
    st.integers(-(10**20), 10**20).map(str),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(DECIMALS, min_size=1, max_size=30), st.sampled_from(" \n"))
def test_values_equal_those_of_float_to_the_last_bit(words, separator):
    text = separator.join(words).encode()
    assert separators(text) == separator.encode() * (len(words) - 1)
    expected = np.array([float(word) for word in words])
    values = np.fromstring(text, sep=" ")
    assert values.tobytes() == expected.tobytes()
    finite = np.abs(expected) < 3e38
    assert to_float32(values[finite]).tobytes() == expected[finite].astype(np.float32).tobytes()


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text("09.eE+-x", min_size=1, max_size=7), min_size=1, max_size=3))
def test_exactly_the_numbers_are_accepted(words):
    text = " ".join(words).encode()
    if all(map(is_number, words)):
        assert len(separators(text)) == len(words) - 1
    else:
        with pytest.raises(ValueError, match="not numbers"):
            separators(text)


@pytest.mark.parametrize("length", range(1, 6))
def test_short_words_are_accepted_exactly_by_the_grammar(length):
    # One character stands for all of its kind.
    words = [""]
    for _ in range(length):
        words = [word + character for word in words for character in "0.e- x"]
    for word in words:
        try:
            separators(word.encode())
            accepted = True
        except ValueError:
            accepted = False
        assert accepted == all(map(is_number, word.split(" "))), word


@pytest.mark.parametrize("word", [b"1_0", b"nan", b"inf", b"-Infinity", b"0x10", b"1d5", b"1\x0c2"])
def test_words_that_numpy_or_python_would_accept_are_refused(word):
    for text in (word, b"1 " + word, word + b" 1"):
        with pytest.raises(ValueError, match="not numbers"):
            separators(text)


def test_only_number_characters_are_accepted_in_a_number():
    accepted = set()
    for byte in range(256):
        with contextlib.suppress(ValueError):
            separators(b"1 2" + bytes([byte]) + b"3 4")
            accepted.add(byte)
    assert accepted == set(b"0123456789.eE \n")


def test_a_count_is_one_to_nine_digits():
    assert [to_count(word) for word in (b"999999999", b"12", b"007")] == [999999999, 12, 7]
    for word in (b"1.5", b"-3", b"+3", b"1e3", b"1234567890", b"", b"1_0", b"\xb2"):
        with pytest.raises(ValueError, match="not a count"):
            to_count(word)


def test_an_empty_text_is_refused():
    with pytest.raises(ValueError, match="not numbers"):
        separators(b"")


def test_values_beyond_float32_are_refused_by_both_ways():
    largest, beyond = b"3.4028235e38", b"3.4028236e38"
    assert to_float32(np.fromstring(largest, sep=" ")) == np.finfo(np.float32).max
    assert Line("x", 1, [largest]).values(1, "a line", 1) == [3.4028235e38]
    with pytest.raises(ValueError, match="not within float32"):
        to_float32(np.fromstring(beyond, sep=" "))
    with pytest.raises(Exception, match="a number within float32 was expected"):
        Line("x", 1, [beyond]).values(1, "a line", 1)


@pytest.mark.parametrize(
    "line", [b"1 -2.5 3e1", b"1,-2.5,3e1\n", b" 1\t-2.5  3e1 \r\n", b"1, -2.5 ,\t3e1"]
)
def test_a_line_of_numbers_has_blanks_or_commas(line):
    assert numbers_of_line(line) == [1.0, -2.5, 30.0]


def test_a_blank_line_has_no_numbers():
    assert numbers_of_line(b" \t\r\n") == []


@pytest.mark.parametrize(
    "line",
    [
        *(b"1_0 2", b"0x1F", b"inf", b"1e999", b"1,,2", b"1,2,", b"0,5 0,25", b"1.", b".5", b"nan"),
        *("١".encode(), b"1\x0c2", b"\xef\xbb\xbf1", b"1\r\r\n"),
    ],
)
def test_what_is_no_number_is_refused_with_what_was_found(line):
    with pytest.raises(ValueError, match=r"^found '.*' where a number .*was expected$"):
        numbers_of_line(line)


def test_nan_is_a_number_where_it_marks_a_missing_joint():
    assert np.isnan(numbers_of_line(b"nan,NaN,-nan", nan=True)).all()
    with pytest.raises(ValueError, match="found 'nan_' where a number"):
        numbers_of_line(b"nan_", nan=True)
