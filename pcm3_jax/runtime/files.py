"""Atomic writing of files, and safe printing of their names."""

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

# Prefix of temporary files during a write; a killed process leaves them behind.
PARTIAL = ".partial."


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write to: renamed to ``path`` on success, deleted on error."""
    try:
        handle, name = tempfile.mkstemp(prefix=PARTIAL, dir=path.parent)
    except ValueError as error:
        # The name has a null byte.
        raise OSError(errno.EINVAL, str(error)) from error
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        # mkstemp gives access to the owner only; use the permissions of an ordinary new file.
        mask = os.umask(0)
        os.umask(mask)
        partial.chmod(0o666 & ~mask)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Like `whole`, for a file named on the command line.

    Raises:
      UserError: the file cannot be written.
    """
    try:
        with whole(path) as partial:
            yield partial
    except OSError as error:
        raise UserError(f"{shown(str(path))} cannot be written: {error.strerror}.") from error


def write_json(path: Path, content: Any) -> None:
    """Writes ``content`` as JSON, atomically."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes ``text``, atomically."""
    with whole(path) as partial:
        partial.write_text(text)


def save_arrays(path: Path, **arrays: Any) -> None:
    """Writes ``arrays`` as an .npz file, atomically, from process 0 only."""
    if jax.process_index() == 0:
        with whole(path) as partial, open(partial, "wb") as file:
            np.savez(file, **arrays)


def shown(name: str) -> str:
    """A file's name for printing, escaped if it has control characters."""
    return name if name.isprintable() else ascii(name)
