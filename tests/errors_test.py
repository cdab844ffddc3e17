"""Reasons and remedies for errors of the computer, and escaped messages."""

import errno
import os

import pytest

from pcm3_jax.data.formats.raw_files import BadFile
from pcm3_jax.errors import UserError, reason, shortage, shown


@pytest.mark.parametrize(
    ("error", "found", "remedy"),
    [
        (MemoryError(), "Cannot allocate memory", "ulimit -v"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device", "disk space"),
        (RuntimeError("write() failed: No space left on device; writing x"), "No space", "space"),
        (OSError("Not enough disk space. Needed: Unknown size"), "No space left", "disk space"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files", "ulimit -n"),
        (RuntimeError("can't start new thread"), "Resource temporarily unavailable", "ulimit -u"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied", "permission"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), "Read-only file system", "written"),
    ],
)
def test_what_a_computer_lacks_is_said_with_a_remedy(error, found, remedy):
    first, second = shortage(error).split("; ")
    assert found in first and remedy in second
    assert reason(error) == first


@pytest.mark.parametrize("error", [ValueError("bad header"), FileNotFoundError("x"), EOFError()])
def test_other_errors_are_no_shortage(error):
    assert shortage(error) is None
    assert reason(error).startswith(type(error).__name__)


def test_messages_cannot_control_a_terminal():
    name = "\x1b]0;title\x07 a\n\udcff\u202e é – 長"
    escaped = r"\x1b]0;title\x07 a\n\udcff\u202e é – 長"
    assert shown(name) == escaped
    assert str(UserError(f"{name} is missing.")) == f"{escaped} is missing."
    assert str(BadFile(name, 3, "found \x9b")).startswith(rf"{escaped}, line 3: found \x9b;")
