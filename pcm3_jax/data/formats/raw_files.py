"""Raw files in folders and archives, and the error for one that cannot be used."""

import contextlib
import functools
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from pcm3_jax.errors import UserError, shortage, shown
from pcm3_jax.runtime.files import opened

_TAR = (".tar", ".tar.xz", ".tar.gz", ".tgz", ".txz")
ARCHIVES = (".zip", *_TAR)
# What operating systems and archivers leave beside the data; names are in lower case.
_STRAY_FOLDER = "__macosx"
_STRAY_NAMES = ("desktop.ini", "readme", "thumbs.db")
# Largest raw file, in bytes, and how many times larger than in its archive, unless it is small.
_LARGEST = 2**31
_LARGEST_RATIO, _SMALL = 200, 2**26


class BadFile(UserError):
    """A raw file that cannot be used.

    Attributes:
        file: where it is, for messages: a path, or `archive.zip/path/in/it`.
        line: 1-based number of the offending line; None for the file as a whole.
        reason: what was found and what was expected, as one clause without a full stop.
    """

    def __init__(self, file: str, line: int | None, reason: str):
        super().__init__(file, line, reason)
        self.file, self.line, self.reason = file, line, reason

    @property
    def place(self) -> str:
        return self.file if self.line is None else f"{self.file}, line {self.line}"

    def __str__(self) -> str:
        return shown(
            f"{self.place}: {self.reason}; repair or remove the file, or leave it out with "
            "--on_bad_file=skip."
        )


@contextlib.contextmanager
def needed(advice: str = "correct the file") -> Iterator[None]:
    """Raises a `BadFile` as a `UserError` with other advice than a builder's flag.

    For files that a builder cannot leave out, and for those of commands without that flag.
    """
    try:
        yield
    except BadFile as flaw:
        raise UserError(f"{flaw.place}: {flaw.reason}; {advice}.") from flaw


@dataclass(frozen=True)
class RawFile:
    """One file of a download.

    Attributes:
        file: where it is, for messages: a path, or `archive.zip/path/in/it`.
        stamp: a fingerprint that changes when the content does; starts with the size and a colon.
        archive: the zip archive that holds it.
        member: its path in `archive`.
        content: the file's bytes, if it comes from a tar archive, which has no random access.
    """

    file: str
    stamp: str
    archive: str | None = None
    member: str | None = None
    content: bytes | None = None

    @property
    def name(self) -> str:
        """The name without folders; its ending is in lower case."""
        path = Path(self.file)
        return path.stem + path.suffix.lower()

    @property
    def size(self) -> int:
        """Bytes."""
        return int(self.stamp.partition(":")[0])

    def read(self, size: int = -1) -> bytes:
        """The first `size` bytes, by default all; raises BadFile if they cannot be read."""
        if self.content is not None:
            return self.content if size < 0 else self.content[:size]
        with _bad_if_unreadable(self.file):
            if self.archive is not None and self.member is not None:
                return _unpacked(_zip(self.archive), self.member, size)
            with opened(Path(self.file)) as file:
                content = file.read(size if size >= 0 else _LARGEST + 1)
                _require_small(len(content))
                return content


@contextlib.contextmanager
def _bad_if_unreadable(file: str) -> Iterator[None]:
    """Raises a `BadFile` for any error but those that every other file would raise, too."""
    try:
        yield
    except Exception as error:  # damaged archives can raise anything
        if not isinstance(error, PermissionError) and (lacking := shortage(error)):
            raise UserError(f"{file} cannot be read: {lacking}.") from error
        first = (getattr(error, "strerror", None) or str(error)).partition("\n")[0]
        first = first.rstrip(".:") or type(error).__name__
        raise BadFile(file, None, f"it cannot be read ({first})") from error


def _require_small(size: int) -> None:
    """Raises ValueError for a file larger than any recording."""
    if size > _LARGEST:
        raise ValueError("it is larger than 2 GB")


def _require_honest(size: int, packed: int) -> None:
    """Raises ValueError for content that expands more than that of any recording."""
    if size > max(_SMALL, _LARGEST_RATIO * packed):
        raise ValueError(f"it is more than {_LARGEST_RATIO} times as large as in its archive")


@functools.lru_cache(maxsize=8)
def _zip(path: str) -> zipfile.ZipFile:
    # Kept open: reading the table of contents of 57,000 files takes a second.
    with opened(Path(path)):
        return zipfile.ZipFile(path)


def _unpacked(archive: zipfile.ZipFile, member: str, size: int) -> bytes:
    entry = archive.getinfo(member)
    _require_small(entry.file_size)
    _require_honest(entry.file_size, entry.compress_size)
    # Other methods expand to any size before zipfile compares it with what the archive claims.
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        number = entry.compress_type
        raise ValueError(f"it is compressed by method {number} instead of deflate, 8")
    with archive.open(entry) as file:
        return file.read(size)


class Found(NamedTuple):
    """The raw files of a folder or archive, sorted by path, and what else was found.

    Attributes:
        files: the raw files.
        stray: the stray files beside them.
        flaws: archives, or members of tar archives, that cannot be read.
    """

    files: list[RawFile]
    stray: list[str]
    flaws: list[BadFile]


def find_files(source: Path, suffix: str | tuple[str, ...]) -> list[RawFile]:
    """The files with (one of) the suffixes in a folder or archive; see `search`.

    Raises:
        UserError: as `search`, or an archive cannot be read.
    """
    found = search(source, suffix)
    if found.flaws:
        raise found.flaws[0]
    return found.files


def search(source: Path, suffix: str | tuple[str, ...]) -> Found:
    """Finds the files with (one of) the suffixes, in any case, at any depth.

    Archives in a folder are searched, too; nothing is unpacked to disk. Files that operating
    systems and archivers leave behind (`._*`, `__MACOSX`, `Thumbs.db`, …), README files, and
    whatever is hidden by a dot are stray, whatever their suffix.

    Raises:
        UserError: there is no such file.
    """
    paths = sorted(path for path in source.rglob("*") if path.is_file()) or [source]
    found = Found([], [], [])
    for path in paths:
        name = path.name.lower()
        if path != source and _is_stray(str(path.relative_to(source))):
            found.stray.append(str(path))
        elif name.endswith(suffix):
            status = path.stat()
            found.files.append(RawFile(str(path), f"{status.st_size}:{status.st_mtime_ns}"))
        elif name.endswith(ARCHIVES):
            with _noted(found, str(path)):
                (_search_zip if name.endswith(".zip") else _search_tar)(path, suffix, found)
    if not found.files and found.flaws:
        raise found.flaws[0]
    if not found.files:
        what = suffix if isinstance(suffix, str) else " or ".join(suffix)
        raise UserError(
            f"{source} holds no {what} file and no archive ({', '.join(ARCHIVES)}) with one; "
            "correct --manual_dir."
        )
    return found


def _is_stray(path: str) -> bool:
    parts = path.lower().removeprefix("./").split("/")
    hidden = any(part.startswith((".", _STRAY_FOLDER)) for part in parts)
    return hidden or parts[-1].startswith(_STRAY_NAMES)


@contextlib.contextmanager
def _noted(found: Found, file: str) -> Iterator[None]:
    """Adds what cannot be read to the flaws."""
    try:
        with _bad_if_unreadable(file):
            yield
    except BadFile as flaw:
        found.flaws.append(flaw)


def _search_zip(path: Path, suffix: str | tuple[str, ...], found: Found) -> None:
    """Adds the files of an archive to `found`."""
    for entry in sorted(_zip(str(path)).infolist(), key=lambda entry: entry.filename):
        file = f"{path}/{entry.filename}"
        if entry.is_dir():
            continue
        if _is_stray(entry.filename):
            found.stray.append(file)
        elif entry.filename.lower().endswith(suffix):
            stamp = f"{entry.file_size}:{entry.CRC}"
            found.files.append(RawFile(file, stamp, str(path), entry.filename))


def _search_tar(path: Path, suffix: str | tuple[str, ...], found: Found) -> None:
    """Adds the files of an archive to `found`, with their content."""
    packed, total = path.stat().st_size, 0
    with opened(path), tarfile.open(path) as archive:
        for member in archive:
            file = f"{path}/{member.name}"
            if not member.isfile():
                continue
            if _is_stray(member.name):
                found.stray.append(file)
            elif member.name.lower().endswith(suffix):
                with _noted(found, file):
                    _require_small(member.size)
                    _require_honest(total + member.size, packed)
                    content = _content(archive, member)
                    total += len(content)
                    stamp = f"{len(content)}:{zlib.crc32(content)}"
                    found.files.append(RawFile(file, stamp, content=content))


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file: IO[bytes] | None = archive.extractfile(member)
    assert file is not None  # as it is a file
    return file.read()
