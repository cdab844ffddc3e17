"""Command-line handling shared by the commands that take file arguments."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from pcm3_jax.errors import UserError

# Makes --help show a module's docstring with its line breaks.
AS_WRITTEN = argparse.RawDescriptionHelpFormatter


class Arguments(argparse.ArgumentParser):
    """An argument parser that raises UserError for a wrong command line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"The command line is wrong: {message}; --help lists the arguments.")


def main(run: Callable[[list[str]], object]) -> None:
    """Calls ``run`` with the command line; bad input exits with code 1 and one sentence."""
    # SIGTERM raises SystemExit, so that cleanup runs and no half-written file remains.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        run(sys.argv[1:])
        sys.stdout.flush()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader, e.g. `head`, has closed the pipe: skip the flush at exit, which would fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
