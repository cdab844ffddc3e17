"""What a data set was built from: the names, sizes and contents of its raw files."""

import json
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from pcm3_jax.data.formats.raw_files import BadFile, RawFile
from pcm3_jax.errors import shown
from pcm3_jax.runtime.files import read_json, write_text

# Sorted (name, mark) of every file. A mark changes when the size or the content does.
Inputs = list[tuple[str, str]]


def take(files: Iterable[tuple[str, RawFile]], size: int) -> Inputs:
    """The inputs of a data set.

    Args:
        files: (name, file): the name identifies the file wherever it is, also in an archive.
        size: how many bytes at the start of each file are compared; -1 for all.
    """
    once = {(name, file.file): file for name, file in files}
    return sorted((name, _mark(file, size)) for (name, _), file in once.items())


def _mark(file: RawFile, size: int) -> str:
    try:
        return f"{file.size}:{zlib.crc32(file.read(size)):08x}"
    except BadFile:
        return f"{file.size}:unreadable"


def write(inputs: Inputs, folder: Path) -> None:
    """Stores the inputs in the folder of the data set."""
    write_text(_file(folder), json.dumps(inputs))


def read(folder: Path) -> Inputs | None:
    """The inputs of the data set in a folder; None if it was built before they were stored."""
    try:
        found = read_json(_file(folder), list, "delete the data set and build it again")
    except FileNotFoundError:
        return None
    return [(name, mark) for name, mark in found]


def _file(folder: Path) -> Path:
    return folder / "inputs.json"


def difference(old: Inputs, new: Inputs) -> str:
    """What differs, as "1 changed (a.npy), 2 new (b.npy, c.npy)"; "" if nothing does."""
    gone = {name for name, _ in Counter(old) - Counter(new)}
    added = {name for name, _ in Counter(new) - Counter(old)}
    kinds = (("changed", gone & added), ("new", added - gone), ("missing", gone - added))
    return ", ".join(
        f"{len(names):,} {kind} ({listed(sorted(names))})" for kind, names in kinds if names
    )


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first of the names, separated by commas."""
    return shown(", ".join(names[:most])) + (", …" if len(names) > most else "")
