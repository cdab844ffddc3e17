"""Raw files in folders and archives, and the error for one that cannot be used."""

import contextlib
import functools
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pcm3_jax.errors import UserError

_TAR = (".tar", ".tar.xz", ".tar.gz", ".tgz", ".txz")
ARCHIVES = (".zip", *_TAR)
# What operating systems and archivers leave beside the data; names are in lower case.
_STRAY_FOLDER = "__macosx"
_STRAY_NAMES = ("desktop.ini", "readme", "thumbs.db")
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError)


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
        return (
            f"{self.place}: {self.reason}; repair or remove the file, or leave it out with "
            "--on_bad_file=skip."
        )


@contextlib.contextmanager
def needed() -> Iterator[None]:
    """Raises a `BadFile` of a file that cannot be left out as a `UserError` without that advice."""
    try:
        yield
    except BadFile as flaw:
        raise UserError(f"{flaw.place}: {flaw.reason}; correct the file.") from flaw


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
        try:
            if self.content is not None:
                return self.content if size < 0 else self.content[:size]
            if self.archive is not None and self.member is not None:
                with _zip(self.archive).open(self.member) as file:
                    return file.read(size)
            with open(self.file, "rb") as file:
                return file.read(size)
        except _DAMAGE as error:
            raise BadFile(self.file, None, f"it cannot be read ({error})") from error


@functools.lru_cache(maxsize=8)
def _zip(path: str) -> zipfile.ZipFile:
    # Kept open: reading the table of contents of 57,000 files takes a second.
    return zipfile.ZipFile(path)


class Found(NamedTuple):
    """The raw files of a folder or archive, sorted by path, and the stray files beside them."""

    files: list[RawFile]
    stray: list[str]


def find_files(source: Path, suffix: str | tuple[str, ...]) -> list[RawFile]:
    """The files with (one of) the suffixes in a folder or archive; see `search`."""
    return search(source, suffix).files


def search(source: Path, suffix: str | tuple[str, ...]) -> Found:
    """Finds the files with (one of) the suffixes, in any case, at any depth.

    Archives in a folder are searched, too; nothing is unpacked to disk. Files that operating
    systems and archivers leave behind (`._*`, `__MACOSX`, `Thumbs.db`, …), README files, and
    whatever is hidden by a dot are stray, whatever their suffix.

    Raises:
        UserError: if an archive cannot be read or there is no such file.
    """
    paths = sorted(path for path in source.rglob("*") if path.is_file()) or [source]
    found = Found([], [])
    for path in paths:
        name = path.name.lower()
        if path != source and _is_stray(str(path.relative_to(source))):
            found.stray.append(str(path))
        elif name.endswith(suffix):
            status = path.stat()
            found.files.append(RawFile(str(path), f"{status.st_size}:{status.st_mtime_ns}"))
        elif name.endswith(ARCHIVES):
            try:
                _search_archive(path, suffix, found)
            except _DAMAGE as error:
                raise UserError(f"{path} cannot be read ({error}); download it again.") from error
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


def _search_archive(path: Path, suffix: str | tuple[str, ...], found: Found) -> None:
    """Adds the files of an archive to `found`."""
    if path.suffix.lower() == ".zip":
        for entry in sorted(_zip(str(path)).infolist(), key=lambda entry: entry.filename):
            file = f"{path}/{entry.filename}"
            if entry.is_dir():
                continue
            if _is_stray(entry.filename):
                found.stray.append(file)
            elif entry.filename.lower().endswith(suffix):
                stamp = f"{entry.file_size}:{entry.CRC}"
                found.files.append(RawFile(file, stamp, str(path), entry.filename))
        return
    with tarfile.open(path) as archive:
        for member in archive:
            file = f"{path}/{member.name}"
            if not member.isfile():
                continue
            if _is_stray(member.name):
                found.stray.append(file)
            elif member.name.lower().endswith(suffix) and (opened := archive.extractfile(member)):
                content = opened.read()
                stamp = f"{len(content)}:{zlib.crc32(content)}"
                found.files.append(RawFile(file, stamp, content=content))
