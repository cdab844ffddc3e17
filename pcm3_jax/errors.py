"""Errors that a user can correct, and the handling of failed writes."""

import contextlib
import difflib
import errno
import os
import re
import sys
from collections.abc import Iterable

# Error numbers of writes that fail for lack of disk space.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What to do about what a computer lacks or forbids, by error number.
_REMEDIES = {
    **dict.fromkeys(NO_ROOM, "free some disk space"),
    errno.ENOMEM: "free some memory, or raise the limit (ulimit -v)",
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit on open files (ulimit -n)"),
    errno.EAGAIN: "raise the limit on threads (ulimit -u)",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "give this user the permission"),
    errno.EROFS: "choose a place that can be written",
}
# Of Python and TFDS, which use no error number.
_WORDS = {"can't start new thread": errno.EAGAIN, "Not enough disk space": errno.ENOSPC}


class UserError(Exception):
    """Bad input, explained in one sentence: what, where, and what to do.

    Entry points print it without a traceback and exit with code 1.
    """

    def __str__(self) -> str:
        # Messages name files, whose names can hold what controls a terminal.
        return shown(super().__str__())


class Busy(UserError):
    """Another process holds the lock of the workdir."""


class WriteError(Exception):
    """The workdir is no longer writable.

    Printed like a `UserError`; when tables run several tasks, it ends all of them.
    """


def report_failure(failure: str, on_failure: str) -> None:
    """Ends the run after a failed write, or only prints a warning.

    Args:
      failure: message that says what cannot be written and why, without a full stop.
      on_failure: "stop" or "continue".

    Raises:
      WriteError: ``on_failure`` is "stop".
    """
    if on_failure == "stop":
        raise WriteError(
            f"{failure}; the same command continues from the last checkpoint once this is "
            "fixed; with --config.checkpoint.on_failure=continue a failed write is only a warning."
        )
    warn(f"{failure}.")


def warn(message: str) -> None:
    """Prints a warning, one sentence: what, where, and what to do."""
    # One that cannot be printed, as on a full disk, must not end what it warns of.
    with contextlib.suppress(OSError):
        print(f"warning: {message}", file=sys.stderr, flush=True)


def note(message: str) -> None:
    """Prints one sentence that a user should know of a result."""
    print(f"note: {message}", file=sys.stderr, flush=True)


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: "; did you mean 'size'?", or nothing."""
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def shortage(error: BaseException) -> str | None:
    """What the computer lacks or forbids, and what to do about it, as two clauses.

    None if the error is about something else, for instance a damaged file.
    """
    number = errno.ENOMEM if isinstance(error, MemoryError) else getattr(error, "errno", None)
    if number not in _REMEDIES:
        # Libraries in C++ give the error of the system as text.
        text = str(error)
        number = next((n for n in _REMEDIES if os.strerror(n) in text), None)
        number = number or next((n for words, n in _WORDS.items() if words in text), None)
    return None if number is None else f"{os.strerror(number)}; {_REMEDIES[number]}"


def reason(error: BaseException) -> str:
    """A short reason for an error, without a full stop, for use inside a message."""
    if lacking := shortage(error):
        return lacking.partition(";")[0]
    message = str(error).strip()
    # TensorStore's message is a chain of errors; the file system's is at its end.
    if found := re.search(r"([^:]+) \[os_error_code=", message):
        return found[1].strip()
    first = message.partition("\n")[0] or "no reason given"
    return f"{type(error).__name__}: {first[:100].rstrip(' :.(')}"


def shown(text: str) -> str:
    """A text for printing, such as a file's name; what controls a terminal is escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
