"""Writing files whole or not at all, and printing their names."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pcm3_jax.errors import UserError

# How the names of files that are being written begin; a kill leaves them behind.
PARTIAL = ".partial."


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes ``path`` at the end, or goes away after a failure."""
    try:
        handle, name = tempfile.mkstemp(prefix=PARTIAL, dir=path.parent)
    except ValueError as error:
        # Of a name with a null byte.
        raise OSError(errno.EINVAL, str(error)) from error
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        # As any new file; the one made here is its owner's alone.
        mask = os.umask(0)
        os.umask(mask)
        partial.chmod(0o666 & ~mask)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """As `whole`, for a file that the command line names.

    Raises:
      UserError: it cannot be written there.
    """
    try:
        with whole(path) as partial:
            yield partial
    except OSError as error:
        raise UserError(f"{shown(str(path))} cannot be written: {error.strerror}.") from error


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    with whole(path) as partial:
        partial.write_text(text)


def save_arrays(path: Path, **arrays: Any) -> None:
    """Writes an .npz beside a run's results, from the first process of several."""
    if jax.process_index() == 0:
        with whole(path) as partial, open(partial, "wb") as file:
            np.savez(file, **arrays)


def shown(name: str) -> str:
    """A name as it is, or escaped where printing it could do more than show it."""
    return name if name.isprintable() else ascii(name)
