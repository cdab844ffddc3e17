"""Reads skeletons from files of the formats in use, for the commands that take any of them."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pcm3_jax.data.normalization import select_bodies
from pcm3_jax.errors import UserError
from pcm3_jax.inference.commands import shown
from pcm3_jax.inference.sequences import read_sequence

FORMATS = ".skeleton (NTU RGB+D), .txt (PKU-MMD or IntelliRehabDS), .npy and .npz"
# Published results go by the first frames of a .skeleton file, from before normalisation on.
_NTU_FRAMES = 300
_LARGEST = 2**31
# The parser of IntelliRehabDS checks names too; here only the content matters.
_ANY_IRDS_NAME = "101_1_0_1_1_stand.txt"


class Recording(NamedTuple):
    """A sequence from a file: `name` for people, and skeletons (T, M, 25, 3) float32 metres."""

    name: str
    skeletons: np.ndarray


def read(name: str) -> list[Recording]:
    """The sequences of a file: one, or as many as an array file holds.

    Array files hold sequences (T, M, 25, 3) or batches of them (N, T, M, 25, 3), in a ``.npz``
    under any names.

    Raises:
      UserError: file, line and flaw.
    """
    path = Path(name)
    readers = {".skeleton": _ntu, ".txt": _text, ".npy": _npy, ".npz": _npz}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{shown(name)} is of no known format; there are {FORMATS}.")
    try:
        arrays = reader(path)
    except OSError as error:
        raise UserError(f"{shown(name)} cannot be read: {error.strerror or error}.") from error
    recordings = []
    for key, array in arrays.items():
        label = f"{name}:{key}" if key else name
        if array.ndim == 5:
            found = [Recording(f"{label}[{i}]", part) for i, part in enumerate(array)]
        else:
            found = [Recording(label, array)]
        for recording in found:
            read_sequence(recording.skeletons, shown(recording.name))
        recordings += found
    if not recordings:
        raise UserError(f"{shown(name)} holds no sequence.")
    return recordings


def _ntu(path: Path) -> dict[str, np.ndarray]:
    from tfds_builders.ntu_rgbd.skeleton_file import parse

    slots = _parsed(path, lambda content: parse(content, str(path)).skeleton)
    return {"": select_bodies(slots)[:_NTU_FRAMES]}


def _text(path: Path) -> dict[str, np.ndarray]:
    # Not before they are needed: the builders bring TensorFlow Datasets along.
    from tfds_builders.intellirehabds import intellirehabds_dataset_builder as irds
    from tfds_builders.pku_mmd.text_files import parse_video

    def parse(content: bytes) -> np.ndarray:
        # Only IntelliRehabDS has commas.
        if b"," in content.lstrip().partition(b"\n")[0]:
            recording = irds.parse_recording(_ANY_IRDS_NAME, content)
            return irds.bridge_lost_joints(recording.skeleton)[:, None]
        return parse_video(content, str(path))

    return {"": _parsed(path, parse)}


def _parsed(path: Path, parse: Callable[[bytes], np.ndarray]) -> np.ndarray:
    from tfds_builders.raw_files import BadFile

    if path.stat().st_size > _LARGEST:
        raise UserError(f"{shown(str(path))} has more than 2 GB; no recording is that long.")
    try:
        return parse(path.read_bytes())
    except BadFile as flaw:
        line = "" if flaw.line is None else f", line {flaw.line}"
        raise UserError(
            f"{shown(str(path))}{line}: {flaw.reason}; repair the file or leave it out."
        ) from flaw


def _npy(path: Path) -> dict[str, np.ndarray]:
    try:
        # Mapped, so that a header that promises more than the file has is noticed.
        return {"": np.load(path, mmap_mode="r", allow_pickle=False)}
    except (ValueError, EOFError, TypeError, OverflowError) as error:
        raise _not_arrays(path, error) from error


def _npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _LARGEST:
                raise ValueError("unpacked it has more than 2 GB")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        # Other members of the archive come as their bytes.
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("it has parts that are no arrays")
        return arrays
    except (
        ValueError, EOFError, TypeError, OverflowError, RuntimeError, MemoryError, AttributeError,
        zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise _not_arrays(path, error) from error


def _not_arrays(path: Path, error: Exception) -> UserError:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
    return UserError(f"{shown(str(path))} holds no usable arrays: {reason[:120]}.")
