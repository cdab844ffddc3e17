"""Features of skeleton recordings.

`pcm3_jax.embed` is the command line.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

import numpy as np

from pcm3_jax.errors import UserError
from pcm3_jax.inference import model as library
from pcm3_jax.inference import skeleton_files
from pcm3_jax.runtime.files import replaced, shown, write_csv


def run(flags: argparse.Namespace) -> None:
    """Runs `pcm3 embed`.  Raises UserError if a file cannot be read or written."""
    if flags.out and flags.out.suffix not in (".npz", ".csv", ".jsonl"):
        raise UserError(f"--out={flags.out} must end in .npz, .csv or .jsonl.")
    model = library.load(flags.model, flags.persons)
    skeleton_files.print_layout_note(flags.model, flags.layout)
    names, features, measured = [], [], []
    for file in flags.files:
        found = skeleton_files.read(file, flags.layout, flags.data_dir)
        skeleton_files.print_persons_note(model, found)
        names += [recording.name for recording in found]
        measured += skeleton_files.measures(found, flags.layout)
        features.append(skeleton_files.embed(model, found, flags.layout, flags.normalized))
    skeleton_files.print_notes(measured)
    write(flags.out, names, np.concatenate(features))


def write(out: Path | None, names: list[str], features: np.ndarray) -> None:
    """Writes features (N, F) as .npz, .csv or .jsonl, by the file's suffix; without one, as CSV.

    Raises:
      UserError: the file cannot be written.
    """
    if out is None:
        write_csv(sys.stdout, _rows(map(shown, names), features))
        return
    with replaced(out) as partial:
        if out.suffix == ".npz":
            with open(partial, "wb") as file:
                np.savez(file, names=np.array(names, str), features=features)
        else:
            # File names can contain bytes that are not valid UTF-8.
            with open(partial, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                if out.suffix == ".csv":
                    write_csv(file, _rows(names, features))
                else:
                    _write_jsonl(file, names, features)
    print(f"{shown(str(out))}: {features.shape[0]} sequences, {features.shape[1]} features")


def _rows(names: Iterable[str], features: np.ndarray) -> Iterator[list[str]]:
    yield ["name", *(f"feature_{i}" for i in range(features.shape[1]))]
    for name, row in zip(names, features, strict=True):
        yield [name, *map(_digits, row)]


def _write_jsonl(file: TextIO, names: list[str], features: np.ndarray) -> None:
    for name, row in zip(names, features, strict=True):
        numbers = ", ".join(map(_digits, row))
        file.write(f'{{"name": {json.dumps(name)}, "features": [{numbers}]}}\n')


def _digits(value: float) -> str:
    """Nine significant digits, which identify a float32 exactly."""
    return f"{value:.9g}"
