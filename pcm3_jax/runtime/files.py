"""Reading of files that the package wrote, atomic writing, checksums and locks."""

from __future__ import annotations

import contextlib
import csv
import errno
import fcntl
import json
import os
import stat
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np

from pcm3_jax.errors import UserError
from pcm3_jax.errors import shown as shown

# Prefix of temporary files during a write; a killed process leaves them behind.
PARTIAL = ".partial."
_CHUNK = 1 << 20


def opened(path: Path) -> BinaryIO:
    """A regular file, opened for reading.

    Raises:
      OSError: it cannot be opened, or is a folder, a device or a pipe, which need not have an end.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise OSError(errno.EINVAL, "It is no regular file", str(path))
        return open(path, "rb")
    except ValueError as error:  # the name has a null byte
        raise OSError(errno.EINVAL, str(error)) from error


def crc(path: Path) -> str:
    """The CRC-32 of a file's content, as eight digits.  Raises OSError."""
    found = 0
    with opened(path) as file:
        while chunk := file.read(_CHUNK):
            found = zlib.crc32(chunk, found)
    return f"{found:08x}"


@contextlib.contextmanager
def lock(path: Path) -> Iterator[bool]:
    """Locks a file, which is created, and yields whether no other process has locked it.

    Raises:
      OSError: it cannot be written.
    """
    with open(path, "a") as file:
        free = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            free = False
        except OSError:
            pass  # The file system has no locks.
        yield free


def read_json(path: Path, kind: type, remedy: str) -> Any:
    """The content of a JSON file that this package wrote.

    Args:
      path: the file.
      kind: dict or list, what the content must be.
      remedy: what to do if the file is damaged, as an imperative clause.

    Raises:
      FileNotFoundError: there is no such file.
      UserError: it cannot be read, or is damaged.
    """
    try:
        with opened(path) as file:
            content = json.loads(file.read())
        if isinstance(content, kind):
            return content
        flaw = f"it holds no JSON {'object' if kind is dict else 'list'}"
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:  # damaged text, or brackets without end
        flaw = f"{type(error).__name__}: {error}"
    raise UserError(f"{path} is damaged ({flaw}); {remedy}.")


def read_arrays(
    path: Path, names: Sequence[str], remedy: str, optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Arrays of an .npz file that this package wrote.

    Args:
      path: the file.
      names: of the arrays.
      remedy: as for `read_json`.
      optional: further names, which the file may lack.

    Raises:
      UserError: it cannot be read, or is damaged.
    """
    try:
        with opened(path) as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in (*names, *optional) if name in {*names, *file}}
    except OSError as error:
        if error.strerror is not None:
            raise UserError(f"{path} cannot be read: {error.strerror}.") from error
        flaw = str(error)
    except Exception as error:  # a damaged archive can raise any exception
        flaw = f"{type(error).__name__}: {error}"
    raise UserError(f"{path} is damaged ({flaw.rstrip('.')}); {remedy}.")


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write to: renamed to ``path`` on success, deleted on error.

    A device or a pipe is written directly.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        yield path
        return
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
    except OSError as error:
        # A failed write does not say of which file.
        error.filename = error.filename or str(path)
        raise
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
        raise UserError(f"{path} cannot be written: {error.strerror}.") from error


def write_json(path: Path, content: Any) -> None:
    """Writes ``content`` as JSON, atomically."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes ``text``, atomically."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_csv(file: TextIO, rows: Iterable[Sequence[Any]]) -> None:
    """Writes rows as CSV.

    Text that a spreadsheet would take for a formula gets an apostrophe before it.
    """
    csv.writer(file, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)


def _cell(value: Any) -> Any:
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def save_arrays(path: Path, **arrays: Any) -> None:
    """Writes ``arrays`` as an .npz file, atomically, from process 0 only."""
    import jax  # here, since commands import this module for --help

    if jax.process_index() == 0:
        with whole(path) as partial, open(partial, "wb") as file:
            np.savez(file, **arrays)
