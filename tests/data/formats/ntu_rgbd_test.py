"""NTU RGB+D's files: pinned ones, every flaw, and thousands of damaged ones."""

import functools
import random
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcm3_jax.data.formats import ntu_rgbd
from pcm3_jax.data.formats.ntu_rgbd import Recording, parse, parse_name
from pcm3_jax.data.formats.raw_files import BadFile
from pcm3_jax.data.normalization import normalize_sequence, select_bodies
from tests.data.formats.mutants import mutant
from tests.data.formats.plain_parsers import Flaw, plain_skeleton
from tests.data.formats.raw_writers import skeleton_text

GOLDEN = Path(__file__).parents[2] / "golden"
FILE = "nturgb+d_skeletons.zip/S001C001P001R001A001.skeleton"


def some_frames(bodies_per_frame, seed=0):
    """Frames of bodies (25, 3), of all magnitudes that 7 digits are written in."""
    rng = np.random.default_rng(seed)
    shape = (sum(bodies_per_frame), 25, 3)
    xyz = iter(rng.normal(size=shape) * 10.0 ** rng.integers(-5, 2, size=shape))
    return [[next(xyz) for _ in range(count)] for count in bodies_per_frame]


@functools.cache
def golden_files():
    with tarfile.open(GOLDEN / "ntu_skeletons.tar.xz") as archive:
        return {m.name: archive.extractfile(m).read() for m in archive.getmembers()}


def golden_cases():
    with np.load(GOLDEN / "ntu_preprocess.npz") as golden:
        ends = np.cumsum(golden["num_frame"])[:-1]
        raw, normalized = np.split(golden["raw"], ends), np.split(golden["normalized"], ends)
        return list(zip(map(str, golden["filename"]), raw, normalized, strict=True))


@pytest.mark.parametrize(("name", "raw", "normalized"), golden_cases(), ids=lambda x: str(x)[:20])
def test_pinned_files_give_what_the_public_program_gives(monkeypatch, name, raw, normalized):
    (content,) = (text for file, text in golden_files().items() if name in file)
    monkeypatch.delattr(ntu_rgbd, "_parse_lines")  # genuine files take the fast path
    kept = select_bodies(parse(content, name).skeleton)
    np.testing.assert_array_equal(kept, raw)
    # The program computes in float32; 1e-5 m is far below the sensor's resolution.
    np.testing.assert_allclose(normalize_sequence(kept[:300]), normalized, rtol=0, atol=1e-5)


def test_the_pinned_files_have_the_forms_that_matter():
    files = golden_files()
    assert len(files) == 8
    assert sorted({b"\r\n" in content for content in files.values()}) == [False, True]
    most = {parse(content, name).bodies for name, content in files.items()}
    assert most == {1, 2, 3}
    assert any(b"\n0\n" in content for content in files.values())
    assert all(b"720575940379" in content for content in files.values())


@pytest.mark.parametrize("crlf", [False, True])
@pytest.mark.parametrize("bodies", [[1], [1, 1, 1], [0, 2, 1], [1, 0, 3], [0, 4, 0], [6, 1, 5]])
def test_both_parsers_match_the_plain_parser(monkeypatch, bodies, crlf):
    frames = some_frames(bodies)
    content = skeleton_text(frames, crlf)
    with monkeypatch.context() as patch:
        patch.delattr(ntu_rgbd, "_parse_lines")
        at_once = parse(content, FILE)
    line_by_line = ntu_rgbd._parse_lines(content, FILE)
    expected, most = plain_skeleton(content)
    for skeleton, count in (at_once, line_by_line):
        assert count == most == max(bodies)
        assert skeleton.dtype == np.float32
        assert skeleton.shape == (len(bodies), min(max(bodies), 4), 25, 3)
        assert skeleton.tobytes() == expected.tobytes()
    for t, slots in enumerate(at_once.skeleton):
        for slot, body in enumerate(slots):
            written = frames[t][slot] if slot < len(frames[t]) else np.zeros((25, 3))
            np.testing.assert_allclose(body, written, rtol=1e-6)  # 7 digits were written


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any),
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=30),
    st.booleans(),
)
def test_any_written_coordinates_are_read_back(bodies, values, crlf):
    xyz = np.resize(np.array(values), (sum(bodies), 25, 3))
    # The 7 digits of the greatest float32 may be rounded up.
    xyz = np.clip(xyz, -3.4e38, 3.4e38)
    parts = np.split(xyz, np.cumsum(bodies)[:-1])
    content = skeleton_text([list(part) for part in parts], crlf)
    skeleton, most = parse(content, FILE)
    for t, part in enumerate(parts):
        written = [[[np.float32(f"{x:.7G}") for x in j] for j in body] for body in part[:4]]
        np.testing.assert_array_equal(skeleton[t, : len(written)].ravel(), np.ravel(written))
        assert not skeleton[t, len(written) :].any()
    assert most == max(bodies)


GOOD = skeleton_text(some_frames([1, 0, 2]))
LINES = GOOD.split(b"\n")[:-1]


@pytest.mark.parametrize(
    "content",
    [
        GOOD[:-1],
        GOOD.replace(b"\n", b"\r\n")[:-1],
        GOOD.replace(b"\n", b"\r\n", 20),
        b"\n \n" + GOOD.replace(b"\n", b" \n\n\t\n ") + b"\n\r\n",
        GOOD.replace(b" ", b"\t \t"),
        GOOD.replace(b"72057594037944738", b"9" * 40),
        b"\xef\xbb\xbf" + GOOD,
    ],
    ids=["no end", "cut crlf", "both ends", "blank lines", "tabs", "long id", "byte order mark"],
)
def test_other_line_ends_blanks_and_ids_change_nothing(content):
    expected, actual = parse(GOOD, FILE), parse(content, FILE)
    assert actual.bodies == expected.bodies
    np.testing.assert_array_equal(actual.skeleton, expected.skeleton)


def with_line(number, text):
    """GOOD with that line (1-based) replaced."""
    return b"\n".join([*LINES[: number - 1], text, *LINES[number:]]) + b"\n"


def with_word(number, word, text):
    """GOOD with that word (0-based) of that line (1-based) replaced."""
    words = LINES[number - 1].split(b" ")
    return with_line(number, b" ".join([*words[:word], text, *words[word + 1 :]]))


def with_fifth_body(x):
    """One frame of five bodies, the last of which has that first x."""
    bodies = [LINES[2:29]] * 4 + [[*LINES[2:4], x + b" 1" * 11, *LINES[5:29]]]
    return b"\n".join([b"1", b"5", *sum(bodies, [])])


# Line 1: frames; 2: bodies; 3: body; 4: joints; 5-29: joints; 30: no bodies; 31: two bodies.
NUMBER = "a number was expected"
COUNT = "a whole number of at most 9 digits, was expected"
FLAWS = {
    "empty": (b"", None, "found the end of the file where the number of frames was expected"),
    "blank": (b" \r\n\n", None, "found the end of the file where the number of frames"),
    "one line": (b"3\n", 1, "the end of the file where the number of bodies of frame 1"),
    "cut in a body": (b"\n".join(LINES[:10]), 10, "the end of the file where a joint line"),
    "cut in a line": (b"\n".join(LINES[:9])[:-3], 9, "found 11 values where a joint line has 12"),
    "cut between frames": (b"\n".join(LINES[:30]), 30, "the number of bodies of frame 3"),
    "too many frames claimed": (with_line(1, b"4"), len(LINES), "bodies of frame 4 was expected"),
    "too few frames claimed": (
        with_line(1, b"2"),
        31,
        "found '2' where the end of the file after its 2",
    ),
    "text after the end": (GOOD + b"\n\nend", len(LINES) + 3, "found 'end' where the end of"),
    "no frames": (b"0\n", 1, "found no frames where at least one was expected"),
    "no body": (b"2\n0\n0\n", None, "found no body in its 2 frames, at least one is expected"),
    "joint count": (with_line(4, b"24"), 4, "found 24 joints where 25 were expected"),
    "no joint count": (
        with_line(4, b"25.0"),
        4,
        f"found '25.0' where the number of joints, {COUNT}",
    ),
    "two counts": (with_line(2, b"1 1"), 2, "found 2 values where only the number of bodies of"),
    "negative frames": (with_line(1, b"-3"), 1, f"found '-3' where the number of frames, {COUNT}"),
    "absurd frames": (with_line(1, b"1000000000000"), 1, COUNT),
    "many frames": (with_line(1, b"999999999"), len(LINES), "bodies of frame 4 was expected"),
    "negative bodies": (with_line(2, b"-1"), 2, "found '-1' where the number of bodies of frame 1"),
    "absurd bodies": (with_line(2, b"1000000000000"), 2, COUNT),
    "many bodies": (with_line(2, b"999999999"), 30, "found 1 values where a body line has 10"),
    "many bodies at last": (
        with_line(31, b"9999999"),
        len(LINES),
        "where a body line was expected",
    ),
    "many frames within seven digits": (with_line(1, b"9999999"), len(LINES), "of frame 4 was"),
    "too few bodies claimed": (
        with_line(31, b"1"),
        59,
        "the end of the file after its 3 frames was",
    ),
    "body line too long": (with_line(3, LINES[2] + b" 1"), 3, "found 11 values where a body line"),
    "joint line too short": (with_line(9, b"1 2 3"), 9, "found 3 values where a joint line has 12"),
    "joint line too long": (
        with_line(9, LINES[8] + b" 0"),
        9,
        "found 13 values where a joint line",
    ),
    "line lost": (GOOD.replace(LINES[6] + b"\n", b""), 29, "found 1 values where a joint line has"),
    "text for x": (with_word(7, 0, b"abc"), 7, f"found 'abc' where {NUMBER}"),
    "text for an angle": (with_word(7, 11, b"?"), 7, f"found '?' where {NUMBER}"),
    "text for an id": (with_word(3, 0, b"id"), 3, f"found 'id' where {NUMBER}"),
    "nan": (with_word(6, 1, b"nan"), 6, f"found 'nan' where {NUMBER}"),
    "infinity": (with_word(6, 2, b"-Infinity"), 6, f"found '-Infinity' where {NUMBER}"),
    "beyond float64": (with_word(6, 0, b"1e999"), 6, "found '1e999' where a number within float32"),
    "beyond float32": (with_word(6, 0, b"3.4028236e38"), 6, "where a number within float32 was"),
    "beyond float32 in the fifth body": (with_fifth_body(b"1e39"), 113, "found '1e39' where a"),
    "text in the fifth body": (with_fifth_body(b"one"), 113, f"found 'one' where {NUMBER}"),
    "underscore": (with_word(6, 0, b"1_0"), 6, f"found '1_0' where {NUMBER}"),
    "hexadecimal": (with_word(6, 0, b"0x1F"), 6, f"found '0x1F' where {NUMBER}"),
    "comma": (with_word(6, 0, b"0,5"), 6, f"found '0,5' where {NUMBER}"),
    "not ASCII": (with_word(6, 0, b"\xd9\xa1"), 6, r"found '\xd9\xa1' where a number"),
    "byte order mark": (
        with_line(2, b"\xef\xbb\xbf1"),
        2,
        r"found '\xef\xbb\xbf1' where the number of",
    ),
    "NUL": (with_word(6, 0, b"0.5\x00"), 6, r"found '0.5\x00' where a number was expected"),
    "NULs at the end": (GOOD + b"\x00" * 99, len(LINES) + 1, r"\x00'... where the end of the file"),
    "lone CR": (
        GOOD.replace(b"\n", b"\r"),
        1,
        "found 853 values where only the number of frames was expected",
    ),
    "CR in a line": (with_word(6, 0, b"1\r2"), 6, r"found '1\r2' where a number was expected"),
    "form feed": (with_word(6, 0, b"1\x0c2"), 6, r"found '1\x0c2' where a number was expected"),
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_flaw_is_named_with_file_and_line(flaw):
    content, line, reason = FLAWS[flaw]
    with pytest.raises(BadFile) as caught:
        parse(content, FILE)
    error = caught.value
    assert (error.file, error.line) == (FILE, line)
    assert reason in error.reason
    assert str(error).isascii() and str(error).isprintable()
    assert str(error).count("; ") == 1
    with pytest.raises(Flaw) as plain:
        plain_skeleton(content)
    assert plain.value.line == line


@pytest.mark.parametrize("flaw", [flaw for flaw in FLAWS if "many" in flaw or "absurd" in flaw])
def test_a_large_count_allocates_no_memory(flaw):
    tracemalloc.start()
    with pytest.raises(BadFile):
        parse(FLAWS[flaw][0], FILE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6  # the file has 8 kB; the counts are in the millions or above


@pytest.mark.parametrize("seed", range(20))
def test_500_mutants_are_parsed_like_the_plain_parser(seed):
    rng = random.Random(seed)
    bodies = rng.choice(([1], [0, 1], [1, 0], [1, 1], [2]))
    content = skeleton_text(some_frames(bodies, seed), crlf=seed % 3 == 0)
    read = refused = 0
    for _ in range(500):
        damaged = mutant(rng, content)
        try:
            expected = plain_skeleton(damaged)
        except Flaw as flaw:
            with pytest.raises(BadFile) as caught:
                parse(damaged, FILE)
            assert (caught.value.file, caught.value.line) == (FILE, flaw.line), damaged
            refused += 1
        else:
            actual = parse(damaged, FILE)
            assert actual.bodies == expected[1], damaged
            assert actual.skeleton.shape == expected[0].shape, damaged
            assert actual.skeleton.tobytes() == expected[0].tobytes(), damaged
            read += 1
    assert read > 50  # enough mutants of either kind
    assert refused > 50


def test_the_name_says_what_a_recording_is():
    name = "S018C003P106R002A120"
    assert parse_name(f"{name}.skeleton") == Recording(name, 18, 3, 106, 2, 120)
    assert parse_name("S001C001P001R001A001.skeleton")[1:] == (1, 1, 1, 1, 1)


@pytest.mark.parametrize(
    "name",
    [
        "S000C001P001R001A001.skeleton",
        "S033C001P001R001A001.skeleton",
        "S001C004P001R001A001.skeleton",
        "S001C001P000R001A001.skeleton",
        "S001C001P107R001A001.skeleton",
        "S001C001P001R003A001.skeleton",
        "S001C001P001R001A121.skeleton",
        "S001C001P001R001A000.skeleton",
        "S01C001P001R001A001.skeleton",
        "S0001C001P001R001A001.skeleton",
        "S001C001P001R001A001.txt",
        "S001C001P001R001A001",
        "s001c001p001r001a001.skeleton",
        "S001C001P001R001A001.skeleton\n",
        "folder/S001C001P001R001A001.skeleton",
        "S٠٠١C001P001R001A001.skeleton",
        "",
    ],
)
def test_other_names_are_refused(name):
    with pytest.raises(
        BadFile, match="the name is not SsssCcccPpppRrrrAaaa.skeleton with"
    ) as caught:
        parse_name(name)
    assert (caught.value.file, caught.value.line) == (name, None)
