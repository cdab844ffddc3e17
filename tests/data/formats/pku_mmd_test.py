"""PKU-MMD's files: videos, labels and splits, every flaw, and thousands of damaged ones."""

import random

import numpy as np
import pytest

from pcm3_jax.data.formats import text
from pcm3_jax.data.formats.pku_mmd import Interval, parse_labels, parse_split, parse_video
from pcm3_jax.data.formats.raw_files import BadFile
from tests.data.formats.mutants import mutant
from tests.data.formats.plain_parsers import Flaw, plain_labels, plain_split, plain_video
from tests.data.formats.raw_writers import labels_text, split_text, video_text

FILE = "PKU_Skeleton_Renew.zip/0002-L.txt"
NUM_FRAMES = 900


def some_video(frames, seed=0):
    """(T, 2, 25, 3) whose second person comes and goes."""
    rng = np.random.default_rng(seed)
    skeleton = rng.normal(size=(frames, 2, 25, 3)) * 10.0 ** rng.integers(-5, 2, (frames, 2, 25, 3))
    skeleton[rng.random(frames) < 0.5, 1] = 0.0
    return skeleton


VIDEO = video_text(some_video(4))
ONE_PERSON = video_text(some_video(4)[:, :1])
ROWS = [(12, 0, 100, 2), (51, 100, 101, 1), (1, 100, 300, 0), (7, 250, NUM_FRAMES, 2)]
LABELS = labels_text(ROWS)
NUMBER = "a number was expected"
COUNT = "a whole number of at most 9 digits, was expected"
TRAIN, TEST = ["0002-L", "0002-M", "A01N01-L"], ["0003-R", "A26N30-M"]
SPLIT = split_text(TRAIN, TEST)


def changed(content, line, text):
    """`content` with that line (1-based) replaced."""
    lines = content.split(b"\n")
    lines[line - 1] = text
    return b"\n".join(lines)


def parsed_labels(content):
    """As `plain_labels`."""
    labels = parse_labels(content, FILE, NUM_FRAMES)
    return labels.intervals, *([row.line for row in rows] for rows in labels[1:])


PARSERS = {
    "video": (VIDEO, lambda content: parse_video(content, FILE), plain_video),
    "labels": (LABELS, parsed_labels, lambda content: plain_labels(content, NUM_FRAMES)),
    "split": (SPLIT, lambda content: parse_split(content, FILE), plain_split),
}
COMMAS = ONE_PERSON.replace(b"\n ", b"\n").replace(b" ", b",")
# What mutants are made of.
CONTENTS = [*((kind, parser[0]) for kind, parser in PARSERS.items()), ("video", COMMAS)]


@pytest.mark.parametrize("crlf", [False, True])
def test_a_video_is_read_at_once(monkeypatch, crlf):
    skeleton = some_video(300)
    content = video_text(skeleton, crlf)
    monkeypatch.delattr(text, "whole_lines")  # genuine files take the fast path
    actual = parse_video(content, FILE)
    assert actual.dtype == np.float32
    np.testing.assert_array_equal(actual, plain_video(content))
    np.testing.assert_allclose(actual, skeleton, rtol=1e-6)  # 7 digits were written


@pytest.mark.parametrize(
    "content",
    [
        VIDEO[:-1],
        VIDEO.replace(b"\n", b"\r\n")[:-1],
        VIDEO.replace(b"\n", b"\r\n", 2),
        VIDEO.replace(b"\n ", b"\n"),
        VIDEO + b"\n \n\r\n",
        b" " + VIDEO.replace(b"\n", b" \t\n"),
        VIDEO.replace(b" ", b"  "),
        b"\xef\xbb\xbf" + VIDEO,
        VIDEO.replace(b"\n ", b"\n").replace(b" ", b","),
        VIDEO.replace(b"\n ", b"\n").replace(b" ", b", "),
        VIDEO.replace(b"\n ", b"\n").replace(b" ", b" ,\t", 2 * 149),
    ],
    ids=[
        *("no end", "cut crlf", "both ends", "no indent", "blank end", "blanks", "two blanks"),
        *("byte order mark", "commas", "commas, blanks", "commas in some lines"),
    ],
)
def test_other_line_ends_and_blanks_change_nothing(content):
    np.testing.assert_array_equal(parse_video(content, FILE), parse_video(VIDEO, FILE))


def test_a_video_of_one_person_has_75_numbers_a_line():
    one = parse_video(ONE_PERSON, FILE)
    assert one.shape == (4, 1, 25, 3)
    np.testing.assert_array_equal(one, parse_video(VIDEO, FILE)[:, :1])
    with_commas = ONE_PERSON.replace(b"\n ", b"\n").replace(b" ", b",")
    np.testing.assert_array_equal(parse_video(with_commas, FILE), one)


def test_labels_are_zero_based_half_open_intervals():
    expected = [Interval(action - 1, *rest, row) for row, (action, *rest) in enumerate(ROWS)]
    for content in (LABELS, LABELS[:-1], LABELS.replace(b",", b" ,\t"), labels_text(ROWS, True)):
        assert parse_labels(content, FILE, NUM_FRAMES) == (expected, [], [], [])


BAD_ROWS = {
    "start": ((12, 9, 9, 2), "do not end after their start", "frames 9 to 9"),
    "swapped": ((12, 100, 50, 2), "do not end after their start", "frames 100 to 50"),
    "after the end": ((12, 900, 950, 2), "after the video's end", "frames 900 to 950 of 900"),
    "action 0": ((0, 0, 9, 2), "whose action is not 1-51", "action 0"),
    "action 52": ((52, 0, 9, 2), "whose action is not 1-51", "action 52"),
}


@pytest.mark.parametrize("flaw", BAD_ROWS)
def test_a_row_that_cannot_be_used_costs_itself_only(flaw):
    row, what, found = BAD_ROWS[flaw]
    labels = parse_labels(labels_text([ROWS[0], row, *ROWS[1:]]), FILE, NUM_FRAMES)
    # The other rows keep their place in the file, which names their examples.
    assert [interval.row for interval in labels.intervals] == [0, 2, 3, 4]
    assert [interval[:4] for interval in labels.intervals] == [(a - 1, *rest) for a, *rest in ROWS]
    (remark,) = labels.left_out
    assert remark.line == 2 and what in remark.what and remark.found == found
    assert not labels.flaws and not labels.mended


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"51,a,101,1", "found 'a' where the start, a whole"),
        (b"12,0,1e2,2", f"the end, {COUNT}"),
        (b"12,-1,9,2", "found '-1' where the start"),
        (b"12,1_0,19,2", "found '1_0' where the start"),
        (b"1,100,300", "found 3 fields where action"),
        (b"1,100,300,0,", "found 5 fields where"),
        (b"1,,300,0", "found '' where the start"),
    ],
)
def test_a_malformed_row_is_a_flaw_of_its_own(line, reason):
    labels = parse_labels(changed(LABELS, 2, line), FILE, NUM_FRAMES)
    assert [interval.row for interval in labels.intervals] == [0, 2, 3]
    (flaw,) = labels.flaws
    assert (flaw.file, flaw.line) == (FILE, 2) and reason in flaw.reason


def test_an_end_after_the_video_is_cut_and_rows_are_sorted():
    labels = parse_labels(labels_text([(7, 250, 901, 2), (1, 100, 300, 0)]), FILE, NUM_FRAMES)
    assert labels.intervals == [Interval(0, 100, 300, 0, 1), Interval(6, 250, 900, 2, 0)]
    cut, moved = labels.mended
    assert cut == (1, "label rows cut at the video's end", "frames 250 to 901 of 900")
    assert moved == (2, "label rows moved into order", "start 100 after 250")


def test_blank_lines_between_labels_are_ignored():
    spaced = b"\xef\xbb\xbf" + LABELS.replace(b"\n", b"\n \n\r\n")
    intervals = parse_labels(spaced, FILE, NUM_FRAMES).intervals
    assert [interval[:4] for interval in intervals] == [(a - 1, *rest) for a, *rest in ROWS]


@pytest.mark.parametrize(
    "content",
    [
        SPLIT,
        SPLIT[:-1] + b", ",
        split_text(TRAIN, TEST, crlf=True),
        SPLIT.replace(b", ", b","),
        SPLIT.replace(b",", b""),
        SPLIT.replace(b"Validataion", b"Validation"),
        SPLIT + b"\n \n",
    ],
)
def test_splits_list_the_videos_of_each_heading(content):
    assert parse_split(content, FILE) == {"train": TRAIN, "test": TEST}


def word_changed(content, line, word, text):
    """`content` with that word (0-based) of that line replaced."""
    words = content.split(b"\n")[line - 1].split()
    words[word] = text
    return changed(content, line, b" ".join(words))


EMPTY = "found an empty file where text was expected"
NO_END = "found the end of the file where"
FLAWS = {
    "video empty": ("video", b"", None, EMPTY),
    "video blank": ("video", b" \n\n", None, EMPTY),
    "video cut": ("video", VIDEO.rsplit(b" ", 1)[0], 4, "found 149 values where a frame has 150"),
    "video cut in half": ("video", VIDEO.rsplit(b" ", 75)[0], 4, "found 75 values where a frame"),
    "video short": ("video", b"1 2 3\n", 1, "found 3 values where a frame has 75 or 150"),
    "video decimal commas": (
        "video",
        ONE_PERSON.replace(b".", b","),
        1,
        " where a frame has 75 or 150",
    ),
    "video comma missing": (
        "video",
        VIDEO.replace(b"\n ", b"\n").replace(b" ", b",").replace(b",", b" ", 1),
        1,
        "found 149 values where",
    ),
    "video comma twice": (
        "video",
        changed(VIDEO, 2, b"1," * 99 + b"," + b"1," * 49 + b"1"),
        2,
        f"found '' where {NUMBER}",
    ),
    "video long line": ("video", changed(VIDEO, 2, b" 1" * 151), 2, "found 151 values where a"),
    "video two in one": ("video", VIDEO.replace(b"\n", b"", 1), 1, "found 300 values where a"),
    "video blank line": ("video", VIDEO.replace(b"\n", b"\n\n", 1), 2, "found a blank line where"),
    "video blank start": ("video", b"\n" + VIDEO, 1, "found a blank line where text was expected"),
    "video text": ("video", word_changed(VIDEO, 3, 7, b"abc"), 3, f"found 'abc' where {NUMBER}"),
    "video nan": ("video", word_changed(VIDEO, 3, 7, b"nan"), 3, f"found 'nan' where {NUMBER}"),
    "video inf": ("video", word_changed(VIDEO, 3, 149, b"inf"), 3, f"found 'inf' where {NUMBER}"),
    "video huge": ("video", word_changed(VIDEO, 4, 149, b"1e39"), 4, "a number within float32"),
    "video underscore": ("video", word_changed(VIDEO, 1, 0, b"1_0"), 1, "found '1_0' where a"),
    "video NUL": ("video", VIDEO + b"\x00", 5, "found 1 values where a frame has 150"),
    "video not ASCII": ("video", word_changed(VIDEO, 1, 0, b"\xb2"), 1, r"found '\xb2' where a"),
    "labels empty": ("labels", b"\n", None, "found an empty file where labels were expected"),
    "split empty": ("split", b"", None, EMPTY),
    "split heading": ("split", changed(SPLIT, 1, b"Train:"), 1, "found 'Train:' where 'Training"),
    "split test heading": ("split", changed(SPLIT, 3, b"Test:"), 3, "where 'Validataion videos:'"),
    "split one heading": ("split", b"Training videos:\n", 1, f"{NO_END} a list of videos was"),
    "split half": ("split", b"Training videos:\nA,B", 2, f"{NO_END} 'Validataion videos:' was"),
    "split no names": ("split", changed(SPLIT, 2, b" , "), 2, "found no name where a list"),
    "split no line": ("split", changed(SPLIT, 2, b""), 2, "found a blank line where text was"),
    "split twice": ("split", changed(SPLIT, 2, b"A, B, A"), 2, "found 'A' a second time (first in"),
    "split in both": ("split", changed(SPLIT, 4, b"0002-M"), 4, "a second time (first in line 2)"),
    "split name": (
        "split",
        changed(SPLIT, 4, b"../a"),
        4,
        "found '../a' where the name of a video",
    ),
    "split longer": (
        "split",
        SPLIT + b"A\n",
        5,
        "found 'A' where the end of the file was expected",
    ),
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_flaw_is_named_with_file_and_line(flaw):
    kind, content, line, reason = FLAWS[flaw]
    _, parse, plain = PARSERS[kind]
    with pytest.raises(BadFile) as caught:
        parse(content)
    error = caught.value
    assert (error.file, error.line) == (FILE, line)
    assert reason in error.reason
    assert str(error).isascii() and str(error).isprintable()
    assert str(error).count("; ") == 1
    with pytest.raises(Flaw) as plainly:
        plain(content)
    assert plainly.value.line == line


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("kind", "content"), CONTENTS, ids=[*PARSERS, "commas"])
def test_500_mutants_are_parsed_like_the_plain_parser(kind, content, seed):
    _, parse, plain = PARSERS[kind]
    rng = random.Random(seed)
    read = refused = 0
    for _ in range(500):
        damaged = mutant(rng, content)
        try:
            expected = plain(damaged)
        except Flaw as flaw:
            with pytest.raises(BadFile) as caught:
                parse(damaged)
            assert (caught.value.file, caught.value.line) == (FILE, flaw.line), damaged
            refused += 1
        else:
            actual = parse(damaged)
            if kind == "video":
                assert actual.shape == expected.shape, damaged
                assert actual.tobytes() == expected.tobytes(), damaged
            else:
                assert actual == expected, damaged
            if kind == "labels" and expected[1]:
                refused += 1  # a row
            else:
                read += 1
    assert read > 25  # enough mutants of either kind
    assert refused > 25
