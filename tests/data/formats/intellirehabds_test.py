"""IntelliRehabDS's files, valid and damaged; the builder's tests name every flaw."""

import random

import numpy as np
import pytest

from pcm3_jax.data.formats.intellirehabds import bridge_lost_joints, parse, parse_name
from pcm3_jax.data.formats.raw_files import BadFile
from tests.data.formats.mutants import mutant
from tests.data.formats.plain_parsers import Flaw, plain_rows

FILE = "SimplifiedJointPositions/101_18_0_1_1_Stand-frame.txt"
FRAMES = np.random.default_rng(0).normal(size=(5, 75)) + 3
CONTENT = "".join(",".join(f"{x:.6g}" for x in frame) + "\n" for frame in FRAMES).encode()


@pytest.mark.parametrize(
    "content",
    [
        CONTENT,
        CONTENT[:-1],
        CONTENT.replace(b"\n", b"\r\n"),
        CONTENT + b"\n \n\r\n",
        b"\xef\xbb\xbf" + CONTENT,
        CONTENT.replace(b",", b", "),
        CONTENT.replace(b",", b" "),
        CONTENT.replace(b",", b"\t"),
    ],
    ids=["as published", "no end", "crlf", "blank end", "mark", "comma blank", "blanks", "tabs"],
)
def test_separators_line_ends_and_a_blank_end_change_nothing(content):
    np.testing.assert_allclose(parse(content, FILE), FRAMES.reshape(5, 25, 3), rtol=1e-5)
    assert parse(content, FILE).tobytes() == parse(CONTENT, FILE).tobytes()


@pytest.mark.parametrize("seed", range(3))
def test_500_mutants_are_parsed_like_the_plain_parser(seed):
    rng = random.Random(seed)
    read = refused = 0
    for _ in range(500):
        damaged = mutant(rng, CONTENT)
        try:
            expected = plain_rows(damaged, (75,))
        except Flaw as flaw:
            with pytest.raises(BadFile) as caught:
                parse(damaged, FILE)
            assert (caught.value.file, caught.value.line) == (FILE, flaw.line), damaged
            refused += 1
        else:
            actual = parse(damaged, FILE)
            # A mutant may have a zero for a joint, which is then interpolated.
            seen = expected.reshape(-1, 25, 3).any(axis=-1)
            assert actual[seen].tobytes() == expected.reshape(-1, 25, 3)[seen].tobytes(), damaged
            read += 1
    assert read > 25  # enough mutants of either kind
    assert refused > 25


def test_digits_of_other_scripts_are_no_numbers_of_a_name():
    with pytest.raises(BadFile, match="the name is not"):
        parse_name("١٠١_18_0_1_1_Stand-frame.txt", FILE)


def test_lost_joints_are_bridged_and_unseen_ones_stay():
    time = np.arange(1.0, 7.0)[:, None, None]
    skeleton = (time * np.ones((6, 25, 3))).astype(np.float32)
    expected = skeleton.copy()
    skeleton[2:4, 1] = 0.0
    skeleton[0, 5] = 0.0
    expected[0, 5] = 2.0  # held from its first known frame
    skeleton[:, 24] = expected[:, 24] = 0.0
    skeleton[5] = expected[5] = 0.0
    np.testing.assert_allclose(bridge_lost_joints(skeleton), expected, atol=1e-6)
