"""Errors that a user can correct, and failed writes that need not end a run."""

import errno
import re
import sys

# Failed writes that more room on the disk corrects.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(Exception):
    """Bad input, explained in one sentence: what, where, and what to do.

    Entry points print it without a traceback and leave with exit code 1.
    """


class Busy(UserError):
    """Another run is in the workdir."""


class WriteError(Exception):
    """The workdir is no longer writable; printed like a `UserError`, but ends a table of runs."""


def report_failure(failure: str, on_failure: str) -> None:
    """Ends the run because of a failed write, or only prints a warning.

    Args:
      failure: what cannot be written and why, without a full stop.
      on_failure: "stop" or "continue".

    Raises:
      WriteError: it is "stop".
    """
    if on_failure == "stop":
        raise WriteError(
            f"{failure}; the same command continues from the last checkpoint once that is put "
            "right, or goes on without with --config.checkpoint.on_failure=continue."
        )
    print(f"warning: {failure}.", file=sys.stderr, flush=True)


def reason(error: BaseException) -> str:
    """Why something failed, in a few words without a full stop."""
    if isinstance(error, OSError) and error.errno in NO_ROOM and error.strerror:
        return error.strerror
    message = str(error).strip()
    # TensorStore reports the whole chain of errors down to the file system's.
    if found := re.search(r"([^:]+) \[os_error_code=", message):
        return found[1].strip()
    first = message.partition("\n")[0] or "no reason given"
    return f"{type(error).__name__}: {first[:100].rstrip(' :.(')}"
