"""The exceptions for what a user can put right, and failures that need not end a run."""

import errno
import re
import sys

# Of a write: what a user can put right by making room.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(Exception):
    """Bad input, told in one sentence: what, where, and what to do.

    Entry points print it without a traceback and leave with exit code 1.
    """


class Busy(UserError):
    """Another run is in the workdir."""


class WriteError(Exception):
    """The workdir takes no more: told as a `UserError` is, but no other run would fare better."""


def report_failure(failure: str, on_failure: str) -> None:
    """Ends the run with what has failed to be written, or only prints it.

    Args:
      failure: half a sentence.
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
    """Why something failed, in a few words without a stop."""
    if isinstance(error, OSError) and error.errno in NO_ROOM and error.strerror:
        return error.strerror
    message = str(error).strip()
    # TensorStore tells the whole way down to the file system's error.
    told = re.search(r"([^:]+) \[os_error_code=", message)
    if told:
        return told[1].strip()
    first = next(iter(message.splitlines()), "no reason given")
    return f"{type(error).__name__}: {first[:100].rstrip(' :.(')}"
