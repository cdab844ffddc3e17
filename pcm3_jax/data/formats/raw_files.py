"""Raw files in folders and archives, and the error for one that cannot be used."""

import functools
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pcm3_jax.errors import UserError

_TAR = (".tar", ".tar.xz", ".tar.gz", ".tgz", ".txz")
ARCHIVES = (".zip", *_TAR)
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

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}, line {self.line}"
        return (
            f"{place}: {self.reason}; repair or remove the file, or leave it out with "
            "--on_bad_file=skip."
        )


@dataclass(frozen=True)
class RawFile:
    """One file of a download.

    Attributes:
        file: where it is, for messages: a path, or `archive.zip/path/in/it`.
        stamp: a fingerprint that changes when the content does.
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
        return Path(self.file).name

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


def find_files(source: Path, suffix: str | tuple[str, ...]) -> list[RawFile]:
    """The files with (one of) the suffixes in a folder or archive, at any depth, sorted by path.

    Archives in a folder are searched, too; nothing is unpacked to disk.

    Raises:
        UserError: if an archive cannot be read or there is no such file.
    """
    paths = sorted(path for path in source.rglob("*") if path.is_file()) or [source]
    files = []
    for path in paths:
        if path.name.endswith(suffix):
            status = path.stat()
            files.append(RawFile(str(path), f"{status.st_size}:{status.st_mtime_ns}"))
        elif path.name.endswith(ARCHIVES):
            try:
                files += _archived(path, suffix)
            except _DAMAGE as error:
                raise UserError(f"{path} cannot be read ({error}); download it again.") from error
    if not files:
        what = suffix if isinstance(suffix, str) else " or ".join(suffix)
        raise UserError(
            f"{source} holds no {what} file and no archive ({', '.join(ARCHIVES)}) with one; "
            "correct --manual_dir."
        )
    return files


def _archived(path: Path, suffix: str | tuple[str, ...]) -> Iterator[RawFile]:
    if path.suffix == ".zip":
        for entry in sorted(_zip(str(path)).infolist(), key=lambda entry: entry.filename):
            if entry.filename.endswith(suffix):
                file, stamp = f"{path}/{entry.filename}", f"{entry.file_size}:{entry.CRC}"
                yield RawFile(file, stamp, str(path), entry.filename)
        return
    with tarfile.open(path) as archive:
        for member in archive:
            wanted = member.isfile() and member.name.endswith(suffix)
            if wanted and (opened := archive.extractfile(member)):
                content = opened.read()
                stamp = f"{len(content)}:{zlib.crc32(content)}"
                yield RawFile(f"{path}/{member.name}", stamp, content=content)
