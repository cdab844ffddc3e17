"""Numbers read at once are the ones that `float` reads, and nothing else passes for a number."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tfds_builders.plain_parsers import is_number
from tfds_builders.numbers_in_text import Numbers

DECIMALS = st.one_of(
    st.from_regex(r"[+-]?[0-9]{1,6}(\.[0-9]{1,14})?([eE][+-]?[0-9]{1,2})?", fullmatch=True),
    st.floats(-1e38, 1e38).map(repr),
    st.floats(-10, 10).map("{:.7g}".format),
    st.integers(-(10**20), 10**20).map(str),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(DECIMALS, min_size=1, max_size=30), st.sampled_from(" \n"))
def test_values_are_those_of_float_to_the_last_bit(words, separator):
    numbers = Numbers(separator.join(words).encode())
    indices = np.arange(len(words))[::-1]
    with np.errstate(over="ignore"):
        expected = np.array([float(words[i]) for i in indices]).astype(np.float32)
    assert numbers.values(indices).tobytes() == expected.tobytes()
    assert numbers.separators.tobytes() == separator.encode() * (len(words) - 1) + b"\n"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("09.eE+-x", min_size=1, max_size=7), min_size=1, max_size=3))
def test_exactly_the_numbers_are_taken(words):
    text = " ".join(words).encode()
    if all(map(is_number, words)):
        assert len(Numbers(text).separators) == len(words)
    else:
        with pytest.raises(ValueError, match="not numbers"):
            Numbers(text)


def test_of_all_bytes_only_these_may_stand_in_a_number():
    taken = set()
    for byte in range(256):
        with contextlib.suppress(ValueError):
            Numbers(b"1 2" + bytes([byte]) + b"3 4")
            taken.add(byte)
    assert taken == set(b"0123456789.eE \n")


def test_counts():
    numbers = Numbers(b"12 007 1.5 -3 +3 1e3 12345678 9999999")
    assert numbers.counts(np.array([7, 0, 1])) == [9999999, 12, 7]
    for index in range(2, 7):
        with pytest.raises(ValueError, match="not counts"):
            numbers.counts(np.array([0, index]))


def test_no_numbers():
    assert Numbers(b"1").values(np.arange(0)).shape == (0,)
    with pytest.raises(ValueError, match="not numbers"):
        Numbers(b"")
