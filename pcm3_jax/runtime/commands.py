"""What the commands that take files share: their command line."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from pcm3_jax.data.joint_layouts import LAYOUTS
from pcm3_jax.errors import UserError

# For a module's docstring: its lines are laid out already.
AS_WRITTEN = argparse.RawDescriptionHelpFormatter


class Arguments(argparse.ArgumentParser):
    """A command line whose mistakes are `UserError`s."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"The command line is wrong: {message}; --help shows what it takes.")


def add_layout(parser: argparse.ArgumentParser) -> None:
    """The flag of the commands that read skeletons of several joint layouts."""
    parser.add_argument("--layout", help=f"joints of the files: one of {', '.join(LAYOUTS)}")


def main(run: Callable[[list[str]], object]) -> None:
    """Calls ``run`` with the command line; leaves with 1 and one sentence after bad input."""
    # As an exception, so that no half-written file is left.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        run(sys.argv[1:])
        sys.stdout.flush()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader, `head` for instance, has seen enough; nothing is to be flushed to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
