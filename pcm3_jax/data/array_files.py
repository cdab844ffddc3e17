"""NumPy's array files from anywhere, read without executing anything that they hold."""

import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

_LARGEST = 2**31
_DAMAGE = (
    ValueError, EOFError, TypeError, OverflowError, RuntimeError, MemoryError, AttributeError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def read_npy(file: Path | BinaryIO) -> dict[str, np.ndarray]:
    """The array of a ``.npy`` file, under the name "".

    Raises:
        ValueError: why there is none, as one clause.
    """
    # Mapped where it can be, so that a header that promises more than the file has is noticed.
    mode: Literal["r"] | None = "r" if isinstance(file, Path) else None
    try:
        return {"": np.load(file, mmap_mode=mode, allow_pickle=False)}
    except _DAMAGE as error:
        raise _not_arrays(error) from error


def read_npz(file: Path | BinaryIO) -> dict[str, np.ndarray]:
    """The arrays of a ``.npz`` file by name.

    Raises:
        ValueError: why there are none, as one clause.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _LARGEST:
                raise ValueError("unpacked it has more than 2 GB")
        if not isinstance(file, Path):
            file.seek(0)
        with np.load(file, allow_pickle=False) as loaded:
            arrays = {name: loaded[name] for name in loaded.files}
        # Other members of the archive come as their bytes.
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("it has parts that are no arrays")
        return arrays
    except _DAMAGE as error:
        raise _not_arrays(error) from error


def _not_arrays(error: Exception) -> ValueError:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
    return ValueError(f"holds no usable arrays: {reason[:120]}")
