"""Command-line handling shared by the commands that take file arguments."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from pcm3_jax.errors import UserError, shortage
from pcm3_jax.runtime.files import shown


class Arguments(argparse.ArgumentParser):
    """An argument parser that raises UserError for a wrong command line.

    --help shows the description with its line breaks.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"The command line is wrong: {message}; --help lists the arguments.")


def parser(command: str, description: str | None) -> Arguments:
    """The parser of ``pcm3 COMMAND``."""
    return Arguments(prog=f"pcm3 {command}", description=description)


def open_streams() -> None:
    """Makes the standard streams usable, whatever the shell has left of them.

    Closed ones become the null device; otherwise the first file that is opened would take their
    place.  Characters that the locale's encoding lacks are printed as escapes.  Orbax and asyncio
    log errors with tracebacks before they raise them; these duplicates are dropped.
    """
    for name in ("absl", "asyncio", "concurrent.futures"):
        logging.getLogger(name).addFilter(_without_traceback)
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _without_traceback(record: logging.LogRecord) -> bool:
    return not record.exc_info


def close_output() -> None:
    """Drops what the standard output has not taken, so that the flush at exit does not fail."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def unusable(error: OSError) -> str:
    """A sentence for a file or stream whose failure nobody else has explained."""
    what = shown(str(error.filename)) if error.filename else "The standard output"
    return f"{what} cannot be used: {error.strerror or error}."


def main(run: Callable[[list[str]], object]) -> None:
    """Calls ``run`` with the command line; bad input exits with code 1 and one sentence."""
    # SIGTERM raises SystemExit, so that cleanup runs and no half-written file remains.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    open_streams()
    try:
        run(sys.argv[1:])
        sys.stdout.flush()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader, e.g. `head`, has gone
        close_output()
    except OSError as error:
        close_output()
        sys.exit(f"error: {unusable(error)}")
    except (MemoryError, RuntimeError) as error:
        if lacking := shortage(error):
            sys.exit(f"error: {lacking}.")
        raise
