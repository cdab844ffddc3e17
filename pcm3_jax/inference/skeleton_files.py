"""Reads skeletons from files of the formats in use, for the commands that take any of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pcm3_jax.data import array_files
from pcm3_jax.data.normalization import select_bodies
from pcm3_jax.errors import UserError
from pcm3_jax.inference.validation import read_sequence
from pcm3_jax.runtime.files import shown

FORMATS = ".skeleton (NTU RGB+D), .txt (PKU-MMD or IntelliRehabDS), .npy and .npz"
# Published results go by the first frames of a .skeleton file, from before normalisation on.
_NTU_FRAMES = 300
_LARGEST = 2**31
# The parser of IntelliRehabDS checks names too; here only the content matters.
_ANY_IRDS_NAME = "101_1_0_1_1_stand.txt"


class Recording(NamedTuple):
    """A sequence from a file: `name` for people, and skeletons (T, M, J, 3) in metres."""

    name: str
    skeletons: np.ndarray


def read(name: str, layout: str | None = None) -> list[Recording]:
    """The sequences of a file: one, or as many as an array file holds.

    Array files hold sequences (T, M, 25, 3) or batches of them (N, T, M, 25, 3), in a ``.npz``
    under any names; with a ``layout`` (`pcm3_jax.data.joint_layouts`) its joints, also (T, J, 3).

    Raises:
      UserError: file, line and flaw.
    """
    path = Path(name)
    readers: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
        ".skeleton": _ntu,
        ".txt": _text,
        ".npy": functools.partial(_arrays, array_files.read_npy),
        ".npz": functools.partial(_arrays, array_files.read_npz),
    }
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
            read_sequence(recording.skeletons, shown(recording.name), layout=layout)
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


def _arrays(read: Callable, path: Path) -> dict[str, np.ndarray]:
    try:
        return read(path)
    except ValueError as error:
        raise UserError(f"{shown(str(path))} {error}.") from error
