"""Pickles with NumPy arrays, read without executing anything and without loading the arrays.

Covers what NumPy 1 and 2 write in protocols 2 to 5. Protocol 2 has no bytes: it stores them as text
of the same character codes, which `_codecs.encode` turns back.
"""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pcm3_jax.data.formats.pickles import Instructions, Name, Refused, Unpickler, expect
from pcm3_jax.data.formats.stored_arrays import Span, StoredArray

# Bytes and strings up to this size are read at once; longer ones are the content of arrays.
_SHORT = 255
# Largest allowed size of all else, of which each byte can take 100 bytes of memory.
_LARGEST = 2**26
_DTYPE = re.compile(r"[fiu][1248]|b1")
_ARRAY, _TYPE, _BYTES, _ENCODE = "numpy.ndarray", "numpy.dtype", "builtins.bytes", "_codecs.encode"
_RECONSTRUCT, _SCALAR = "numpy.core.multiarray._reconstruct", "numpy.core.multiarray.scalar"
_FROM_BUFFER = "numpy.core.numeric._frombuffer"
_NAMES = {_ARRAY, _TYPE, _BYTES, _ENCODE, _RECONSTRUCT, _SCALAR, _FROM_BUFFER}
# Modules that have, or had, another name in some versions of Python and NumPy.
_MODULES = {
    "__builtin__": "builtins",
    "numpy._core.multiarray": "numpy.core.multiarray",
    "numpy._core.numeric": "numpy.core.numeric",
}


def read_pickle(path: Path) -> Any:
    """The value of a pickle of numbers, strings, containers and arrays.

    Returns:
        Tuples, lists, dictionaries (only entries with a string as key), numbers, strings, and a
        `StoredArray` for each array.

    Raises:
        ValueError: the file is damaged or holds other objects; a clause with the reason.
    """
    try:
        with open(path, "rb") as file:
            return _Unpickler(_Stream(file, path.stat().st_size), str(path)).load()
    except Refused as refusal:
        raise ValueError(str(refusal)) from refusal
    # A malformed pickle can make the unpickler raise anything.
    except Exception as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise ValueError(f"it is not a pickle, or a damaged one ({reason})") from error


class _Stream:
    """A file of which at most `_LARGEST` bytes are read; others are skipped."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size, self._left = file, size, _LARGEST

    def read(self, size: int) -> bytes:
        return self._counted(self._file.read(min(size, self._left + 1)))

    def readline(self) -> bytes:
        return self._counted(self._file.readline(self._left + 1))

    def _counted(self, content: bytes) -> bytes:
        self._left -= len(content)
        if self._left < 0:
            raise Refused(f"its pickle has more than {_LARGEST} bytes besides arrays")
        return content

    def skip(self, size: int) -> Span:
        span = Span(self._file.tell(), size)
        self.require(size)
        self._file.seek(size, 1)
        return span

    def require(self, size: int) -> None:
        """Raises EOFError if fewer bytes are left."""
        if self._file.tell() + size > self._size:
            raise EOFError


class _Text(Span):
    """A string that has not been read."""


class _Type:
    """A NumPy type: `code`, for instance "f2", and its byte order."""

    def __init__(self, code: str) -> None:
        if not _DTYPE.fullmatch(code) or code == "f1":
            raise Refused(f"it has elements of type {ascii(code)[:20]}, numbers are expected")
        self.code, self.order = code, "|" if code.endswith("1") else "<"

    def __str__(self) -> str:
        return self.order + self.code


class _Unpickler(Unpickler):
    append: Callable[[Any], None]
    read: Callable[[int], bytes]

    def __init__(self, stream: _Stream, path: str) -> None:
        super().__init__(stream)  # type: ignore[arg-type]
        self._stream, self._path = stream, path

    def find_class(self, module: str, name: str) -> Name:
        full = f"{_MODULES.get(module, module)}.{name}"
        if full not in _NAMES:
            raise Refused(f"its pickle refers to {ascii(full)[:60]}, which arrays do not need")
        return Name(full)

    def call(self, function: Any, arguments: tuple) -> Any:
        expect(function, Name)
        if function == _BYTES and not arguments:
            return b""
        if function == _ENCODE:
            text, coding = arguments
            if coding not in ("latin1", "latin-1"):
                raise ValueError("not a coding of bytes")
            if isinstance(text, _Text):
                return Span(text.offset, text.size, text=True)
            return expect(text, str).encode("latin-1")
        if function == _TYPE:
            code, _, _ = arguments
            return _Type(expect(code, str))
        if function == _SCALAR:
            dtype, content = arguments
            (number,) = np.frombuffer(expect(content, bytes), str(expect(dtype, _Type)))
            return number.item()
        if function == _RECONSTRUCT:
            subtype, shape, code = arguments
            if (expect(subtype, Name), shape, code) != (_ARRAY, (0,), b"b"):
                raise ValueError("not an empty array")
            return StoredArray(self._path)
        if function == _FROM_BUFFER:
            content, dtype, shape, order, *axes = arguments
            if order == "K":
                (order,) = axes
            return self._fill(StoredArray(self._path), shape, dtype, order, content)
        raise TypeError("not a function")

    def build(self, target: Any, state: Any) -> None:
        if isinstance(target, _Type):
            version, order, *rest = expect(state, tuple)
            if version != 3 or rest != [None, None, None, -1, -1, 0]:
                raise ValueError("not a simple type")
            if order not in (("|",) if target.code.endswith("1") else ("<", ">")):
                raise ValueError("not a byte order")
            target.order = order
            return
        version, shape, dtype, fortran, content = expect(state, tuple)
        if version != 1:
            raise ValueError("not an array's state")
        order = "F" if expect(fortran, int) else "C"
        self._fill(expect(target, StoredArray), shape, dtype, order, content)

    def _fill(
        self, array: StoredArray, shape: Any, dtype: Any, order: Any, content: Any
    ) -> StoredArray:
        """Sets what an array is; `order` is "C", "F" or the axes to transpose it to."""
        if not all(type(size) is int and size >= 0 for size in expect(shape, tuple)):
            raise ValueError("not an array's shape")
        forward = tuple(range(len(shape)))
        axes = {"C": forward, "F": forward[::-1]}[order] if isinstance(order, str) else order
        if tuple(sorted(expect(axes, tuple))) != forward:
            raise ValueError("not an order of axes")
        if isinstance(content, _Text):
            raise TypeError("text in place of bytes")
        array.data, array.dtype = expect(content, (bytes, Span)), str(expect(dtype, _Type))
        # In Fortran's order the shape is that of the array, otherwise that before transposing.
        array.shape = shape if order == "F" else tuple(shape[axis] for axis in axes)
        array.axes = None if axes == forward else axes
        return array

    def _sized(self, form: str) -> int:
        return struct.unpack(form, self.read(struct.calcsize(form)))[0]

    def _content(self, size: int) -> bytes | Span:
        return self.read(size) if size <= _SHORT else self._stream.skip(size)

    def load_binbytes(self) -> None:
        self.append(self._content(self._sized("<I")))

    def load_binbytes8(self) -> None:
        self.append(self._content(self._sized("<Q")))

    def load_binunicode(self) -> None:
        self._append_text(self._sized("<I"))

    def load_binunicode8(self) -> None:
        self._append_text(self._sized("<Q"))

    def _append_text(self, size: int) -> None:
        content = self._content(size)
        self.append(_Text(*content) if isinstance(content, Span) else content.decode())

    def load_frame(self) -> None:
        # A frame only says how much to read ahead.
        self._stream.require(self._sized("<Q"))

    dispatch = Instructions(
        Unpickler.dispatch
        | {
            pickle.FRAME[0]: load_frame,
            pickle.BINBYTES[0]: load_binbytes,
            pickle.BINBYTES8[0]: load_binbytes8,
            pickle.BYTEARRAY8[0]: load_binbytes8,
            pickle.BINUNICODE[0]: load_binunicode,
            pickle.BINUNICODE8[0]: load_binunicode8,
        }
    )
