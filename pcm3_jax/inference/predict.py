"""The most probable actions in skeleton files, or in frames as they arrive.

python -m pcm3_jax.predict FILE … [--model=MODEL] [--k=5] [--layout=LAYOUT]
python -m pcm3_jax.predict -      [--model=MODEL] [--k=5]

FILE: as for `pcm3_jax.embed`.  With -, frames are read from standard input, one per line: 75 or 150
numbers (1 or 2 persons, 25 joints, x y z in metres) separated by blanks or commas.  After each
frame the most probable actions so far are printed, after "nothing" if none reaches the model's
threshold.  MODEL: the name of a model that comes with the package (by default irds, of nine
gestures), a file from `pcm3_jax.fit`, the workdir of a linear evaluation, or any safetensors file
with a classifier.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from pcm3_jax.data.normalization import MAX_METRES
from pcm3_jax.data.skeleton import COORDINATES, JOINTS
from pcm3_jax.errors import UserError
from pcm3_jax.inference import model as library
from pcm3_jax.inference import skeleton_files
from pcm3_jax.runtime.files import shown

# Longer than any line of 150 numbers; limits the memory for input without line ends.
_LONGEST_LINE = 1 << 16


def run(argv: list[str]) -> None:
    """Runs the command.  Raises UserError if a file or frame cannot be read."""
    parser = skeleton_files.arguments("predict", __doc__, model="irds")
    parser.add_argument("--k", type=int, default=5, help="number of actions to print")
    flags = parser.parse_args(argv)
    if "-" in flags.files and flags.files != ["-"]:
        raise UserError("Standard input, -, cannot be read along with files.")
    if flags.layout is not None and flags.files == ["-"]:
        raise UserError("Standard input, -, has Kinect v2's joints; --layout is for files.")
    model = library.load(flags.model)
    skeleton_files.print_layout_note(flags.model, flags.layout)
    # Fails if there is no classifier, before any file or frame is read.
    model.labels(np.zeros((1, model.features), np.float32), flags.k)
    if flags.files == ["-"]:
        live(model, sys.stdin.buffer, flags.k, normalized=flags.normalized)
        return
    for name in flags.files:
        for recording in skeleton_files.read(name, flags.layout):
            labels = model.classify(
                [recording.skeletons], flags.k, layout=flags.layout, normalize=not flags.normalized
            )
            print(f"{shown(recording.name)}: {_text(labels[0])}", flush=True)


def live(model: library.Model, lines: BinaryIO, k: int, *, normalized: bool) -> None:
    """Prints a line for each frame; on a terminal each overwrites the last."""
    encoder = model.online(normalize=not normalized)
    terminal = sys.stdout.isatty()
    for number, frame in read_frames(lines):
        feature = encoder.push(frame)
        if feature is None:
            text = "nobody seen yet"
            if frame.any():
                text += ": the spine's middle is missing or zero (if normalised, use --normalized)"
        else:
            labels = model.labels(feature[None], k)[0]
            text = "nothing; " * (labels[0][1] < model.threshold) + _text(labels)
        start, end = ("\r\x1b[K", "") if terminal else ("", "\n")
        print(f"{start}frame {number}: {text}", end=end, flush=True)
    if terminal:
        print()


def read_frames(lines: BinaryIO) -> Iterator[tuple[int, np.ndarray]]:
    """Frame numbers from 1 and poses (M, 25, 3), as lines arrive; skips blank lines.

    A joint with a NaN coordinate is missing and becomes zero.

    Raises:
      UserError: names the first line that is not a frame.
    """
    number = frames = 0
    while line := lines.readline(_LONGEST_LINE):
        number += 1
        words = line.replace(b",", b" ").split()
        if not words:
            continue
        where = f"Standard input, line {number}"
        persons, rest = divmod(len(words), JOINTS * COORDINATES)
        if rest or persons not in (1, 2) or len(line) == _LONGEST_LINE:
            raise UserError(f"{where}: found {len(words)} numbers where a frame has 75 or 150.")
        try:
            values = np.array([float(word) for word in words])
        except ValueError:
            raise UserError(f"{where}: found something other than numbers.") from None
        pose = values.reshape(persons, JOINTS, COORDINATES)
        pose[np.isnan(pose).any(axis=-1)] = 0
        if not np.abs(pose).max() <= MAX_METRES:
            raise UserError(
                f"{where}: found a coordinate that is not within {MAX_METRES:.0f} metres."
            )
        frames += 1
        yield frames, pose


def _text(labels: list[tuple[str, float]]) -> str:
    return ", ".join(f"{shown(label)} {100 * share:.1f} %" for label, share in labels)
