"""Standard streams of the commands: closed, broken, full, and of other encodings."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from pcm3_jax.runtime import commands

def run(arguments):
    sys.stdin.read()
    with open(arguments[0], "w") as file:
        file.write("kept")
    for number in range(int(arguments[1])):
        print("5 – 7 \\u2026", number)

commands.main(run)
"""


def start(tmp_path, redirection, lines=1):
    """Runs the program in a shell: (exit code, output, errors)."""
    file = tmp_path / "out"
    command = f'"$0" -c "$1" {file} {lines} {redirection}'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, PROGRAM],
        capture_output=True, stdin=subprocess.DEVNULL, timeout=120, check=False,
    )  # fmt: skip
    assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr
    assert file.read_text() == "kept"
    return done.returncode, done.stdout, done.stderr.decode()


def test_closed_streams(tmp_path):
    assert start(tmp_path, "<&- >&- 2>&-") == (0, b"", "")


def test_a_reader_that_goes(tmp_path):
    code, output, errors = start(tmp_path, "| head -n 1; exit ${PIPESTATUS[0]}", lines=100_000)
    assert (code, errors) == (0, "") and output.count(b"\n") == 1


def test_a_full_output(tmp_path):
    code, _, errors = start(tmp_path, "> /dev/full")
    assert code == 1
    assert errors == "error: The standard output cannot be used: No space left on device.\n"


@pytest.mark.parametrize("encoding", ["ascii", "iso8859-1"])
def test_characters_that_an_encoding_lacks_are_escaped(tmp_path, monkeypatch, encoding):
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    assert start(tmp_path, "") == (0, b"5 \\u2013 7 \\u2026 0\n", "")
