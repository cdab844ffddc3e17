"""Arrays in `.npy` and `.npz` files that may be larger than memory: located, then read in parts."""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from pcm3_jax.runtime.files import shown

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_CHUNK = 2**20


class Span(NamedTuple):
    """Bytes in a file; as text they are UTF-8, and its characters are the bytes meant."""

    offset: int
    size: int
    text: bool = False


@dataclass
class StoredArray:
    """An array whose content is in a file.

    Attributes:
        path: the file.
        data: where its bytes are, or the bytes themselves if they are few.
        dtype: NumPy's name of the type of its elements, with the byte order.
        shape: its shape.
        axes: the array is transposed so after its bytes were read in C's order; None for not.
    """

    path: str
    data: Span | bytes = b""
    dtype: str = "|i1"
    shape: tuple[int, ...] = (0,)
    axes: tuple[int, ...] | None = None

    def row(self, index: int) -> StoredArray:
        """The array at an index of the first axis; only for the arrays of this module."""
        assert isinstance(self.data, Span) and self.axes is None
        size = self.data.size // self.shape[0]
        span = Span(self.data.offset + index * size, size)
        return replace(self, data=span, shape=self.shape[1:])

    def load(self) -> np.ndarray:
        """Reads the array. Raises ValueError if the bytes do not fit its shape."""
        content = self.data
        if isinstance(content, Span):
            with open(self.path, "rb") as file:
                file.seek(content.offset)
                read = file.read(content.size)
            if len(read) < content.size:
                raise ValueError("the file ends too early")
            content = read.decode().encode("latin-1") if content.text else read
        axes = self.axes or range(len(self.shape))
        stored = [size for _, size in sorted(zip(axes, self.shape, strict=True))]
        return np.frombuffer(content, self.dtype).reshape(stored).transpose(axes)


def in_npy(path: Path) -> StoredArray:
    """The array of a `.npy` file. Raises ValueError, a clause with the reason."""
    try:
        with open(path, "rb") as file:
            return _stored(path, file, path.stat().st_size)
    except Exception as error:  # damaged headers can raise anything
        raise ValueError(_reason(error)) from error


def in_npz(path: Path, names: Iterable[str]) -> dict[str, StoredArray]:
    """The arrays of those names in a `.npz` file, which is read once to verify its checksums.

    Raises:
        ValueError: the file is damaged or compressed, or lacks an array; a clause with the reason.
    """
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            return {name: _member(path, archive, file, name) for name in names}
    except Exception as error:  # damaged headers can raise anything
        raise ValueError(_reason(error)) from error


def _member(path: Path, archive: zipfile.ZipFile, file: BinaryIO, name: str) -> StoredArray:
    entry = archive.getinfo(f"{name}.npy")
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed, so it cannot be read in parts; use numpy.savez")
    with archive.open(entry) as member:
        while member.read(_CHUNK):  # raises BadZipFile at the end if the checksum differs
            pass
    file.seek(entry.header_offset)
    name_size, extra_size = struct.unpack("<26xHH", file.read(30))
    start = file.seek(name_size + extra_size, 1)
    return _stored(path, file, start + entry.file_size)


def _stored(path: Path, file: BinaryIO, end: int) -> StoredArray:
    """The array whose header is at the file's position, and whose bytes end before `end`."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"version {version} of NumPy's format is not for arrays of numbers")
    shape, fortran, dtype = _HEADERS[version](file)
    if dtype.kind not in "fiu" or min(shape, default=0) < 0:
        raise ValueError(f"found elements of type {dtype} where numbers were expected")
    if fortran and len(shape) > 1:
        raise ValueError("the array is in Fortran's order, so it cannot be read in parts")
    span = Span(file.tell(), math.prod(shape) * dtype.itemsize)
    if span.offset + span.size > end:
        raise ValueError("the file ends too early")
    return StoredArray(str(path), span, dtype.str, shape)


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return shown(text.splitlines()[0][:120].rstrip("."))
