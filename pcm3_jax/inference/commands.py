"""What the commands that take files share: their command line, and writing whole files only."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from pcm3_jax.errors import UserError
from pcm3_jax.joint_layouts import LAYOUTS

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


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes ``path`` at the end, or goes away after a failure.

    Raises:
      UserError: it cannot be written there.
    """
    try:
        handle, partial = tempfile.mkstemp(prefix=".partial.", dir=path.parent)
        os.close(handle)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{shown(str(path))} cannot be written: {reason}.") from error
    try:
        yield Path(partial)
        # As any new file; the one made here is its owner's alone.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(partial, 0o666 & ~mask)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"{shown(str(path))} cannot be written: {error.strerror}.") from error
    finally:
        Path(partial).unlink(missing_ok=True)


def shown(name: str) -> str:
    """A name as it is, or escaped where printing it could do more than show it."""
    return name if name.isprintable() else ascii(name)
