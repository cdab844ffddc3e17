"""Reads skeletons from files of any supported format."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pcm3_jax.data.formats import intellirehabds, ntu_rgbd, pku_mmd
from pcm3_jax.data.formats.arrays import read_arrays
from pcm3_jax.data.formats.raw_files import BadFile
from pcm3_jax.data.joint_layouts import LAYOUTS
from pcm3_jax.data.normalization import select_bodies
from pcm3_jax.data.skeleton import COORDINATES, JOINTS
from pcm3_jax.errors import UserError
from pcm3_jax.inference import shipped_models
from pcm3_jax.inference.validation import read_sequence
from pcm3_jax.runtime import commands
from pcm3_jax.runtime.files import shown

FORMATS = ".skeleton (NTU RGB+D), .txt (PKU-MMD or IntelliRehabDS), .npy and .npz"
# Published results use the first frames of a .skeleton file only, also for normalisation.
_NTU_FRAMES = 300
_LARGEST = 2**31


def arguments(
    command: str, description: str | None, *, model: str, files: str = ""
) -> commands.Arguments:
    """A parser with the arguments that `pcm3_jax.embed`, `predict` and `fit` share.

    Args:
      command, description: for --help.
      model: the one to use without --model.
      files: what to call the only file; by default there may be several.
    """
    parser = commands.Arguments(
        prog=f"python -m pcm3_jax.{command}",
        description=description,
        formatter_class=commands.AS_WRITTEN,
    )
    parser.add_argument("files", nargs=None if files else "+", metavar=files or "FILE")
    parser.add_argument("--model", default=model)
    parser.add_argument(
        "--normalized", action="store_true", help="the skeletons are normalised already"
    )
    parser.add_argument("--layout", help=f"joints of the files: one of {', '.join(LAYOUTS)}")
    return parser


def print_layout_note(model: str, layout: str | None) -> None:
    """Prints a note if a model of the package was not trained for the joints of ``layout``."""
    if note := shipped_models.layout_note(model, layout):
        print(f"note: {note}", file=sys.stderr, flush=True)


class Recording(NamedTuple):
    """A sequence from a file: `name` for output, and skeletons (T, M, J, 3) in metres."""

    name: str
    skeletons: np.ndarray


def read(name: str, layout: str | None = None) -> list[Recording]:
    """Reads the sequences of a file: one from a text file, one or more from an array file.

    Array files hold sequences (T, M, 25, 3) or batches of them (N, T, M, 25, 3); names in a
    ``.npz`` are arbitrary.  With a ``layout`` (`pcm3_jax.data.joint_layouts`) they have its J
    joints instead of 25, and may be (T, J, 3).

    Raises:
      UserError: names the file, the line and what is wrong.
    """
    path = Path(name)
    reader = {".skeleton": _ntu, ".txt": _text, ".npy": _arrays, ".npz": _arrays}.get(
        path.suffix.lower()
    )
    if reader is None:
        raise UserError(f"{shown(name)} has an unknown format; supported are {FORMATS}.")
    try:
        found = reader(path)
    except OSError as error:
        raise UserError(f"{shown(name)} cannot be read: {error.strerror or error}.") from error
    recordings = []
    for key, array in found.items():
        label = f"{name}:{key}" if key else name
        if array.ndim == 5:
            recordings += [Recording(f"{label}[{i}]", part) for i, part in enumerate(array)]
        else:
            recordings.append(Recording(label, array))
    for recording in recordings:
        read_sequence(recording.skeletons, shown(recording.name), layout=layout)
    if not recordings:
        raise UserError(f"{shown(name)} holds no sequence.")
    return recordings


def _ntu(path: Path) -> dict[str, np.ndarray]:
    slots = _parsed(path, lambda content, file: ntu_rgbd.parse(content, file).skeleton)
    return {"": select_bodies(slots)[:_NTU_FRAMES]}


def _text(path: Path) -> dict[str, np.ndarray]:
    def parse(content: bytes, file: str) -> np.ndarray:
        # Files of one person with commas are IntelliRehabDS's.
        if content.lstrip().partition(b"\n")[0].count(b",") == JOINTS * COORDINATES - 1:
            return intellirehabds.parse(content, file)[:, None]
        return pku_mmd.parse_video(content, file)

    return {"": _parsed(path, parse)}


def _parsed(path: Path, parse: Callable[[bytes, str], np.ndarray]) -> np.ndarray:
    if path.stat().st_size > _LARGEST:
        raise UserError(f"{shown(str(path))} is larger than 2 GB, the limit for one recording.")
    with repairable(path):
        return parse(path.read_bytes(), str(path))


@contextlib.contextmanager
def repairable(path: Path) -> Iterator[None]:
    """Raises a `BadFile` of a single file as a `UserError` without a builder's flags."""
    try:
        yield
    except BadFile as flaw:
        line = "" if flaw.line is None else f", line {flaw.line}"
        raise UserError(
            f"{shown(str(path))}{line}: {flaw.reason}; repair the file or leave it out."
        ) from flaw


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_arrays(path)
    except ValueError as error:
        raise UserError(f"{shown(str(path))} {error}.") from error
