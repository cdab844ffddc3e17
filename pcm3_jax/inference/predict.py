"""What a trained model says about skeleton recordings, or about frames as they arrive.

`pcm3_jax.predict` is the command line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pcm3_jax.data.formats.text import numbers_of_line, split_numbers
from pcm3_jax.data.joint_layouts import layout_named
from pcm3_jax.data.normalization import MAX_METRES
from pcm3_jax.data.skeleton import COORDINATES, JOINTS
from pcm3_jax.errors import UserError
from pcm3_jax.inference import model as library
from pcm3_jax.inference import skeleton_files
from pcm3_jax.inference.online import Online
from pcm3_jax.inference.skeleton_files import Recording
from pcm3_jax.runtime.files import replaced, shown, write_csv

# Longer than any line of numbers of a few persons; limits the memory for input without line ends.
_LONGEST_LINE = 1 << 16


def run(flags: argparse.Namespace) -> None:
    """Runs `pcm3 predict`.  Raises UserError if a file or frame cannot be read."""
    live_frames = flags.files == ["-"]
    if "-" in flags.files and not live_frames:
        raise UserError("Standard input, -, cannot be read along with files.")
    if flags.out and flags.out.suffix not in (".csv", ".jsonl", ".npz"):
        raise UserError(f"--out={flags.out} must end in .csv, .jsonl or .npz.")
    if live_frames and flags.out:
        raise UserError("--out is for files; redirect the standard output instead.")
    model = library.load(flags.model, flags.persons)
    skeleton_files.print_layout_note(flags.model, flags.layout)
    if live_frames or not model.heads or "classifier" in model.heads:
        # Fails if there is no classifier, before any file or frame is read.
        model.labels(np.zeros((1, model.features), np.float32), flags.k)
    if live_frames:
        online = model.online(
            window=flags.window,
            rate=flags.rate,
            every=flags.every,
            layout=flags.layout,
            normalize=not flags.normalized,
        )
        joints = len(layout_named(flags.layout).joints) if flags.layout else JOINTS
        frames = read_frames(sys.stdin.buffer, joints)
        live(online, frames, flags.k, as_json=flags.json)
        return
    results = []
    for file in flags.files:
        found = skeleton_files.read(file, flags.layout, flags.data_dir)
        skeleton_files.print_persons_note(model, found)
        for recording in found:
            result = describe(model, recording, flags.k, flags.layout, flags.normalized)
            text = [_json(result)] if flags.json else _lines(result)
            for line in text:
                print(line, flush=True)
            results.append(result)
    if flags.out:
        with replaced(flags.out) as partial:
            _write(partial, flags.out.suffix, results)


def describe(
    model: library.Model, recording: Recording, k: int, layout: str | None, normalized: bool
) -> dict[str, Any]:
    """What the model says about a recording.

    Returns:
      Its name and, depending on the model, ``labels``, a list of (label, probability);
      ``intervals``, a list of {"start", "stop", "label", "score"}; or ``poses`` (frames, 2, 25, 3).

    Raises:
      UserError: the recording cannot be used, for instance because it is too short.
    """
    with _named(recording.name):
        arguments = skeleton_files.prepared(model, [recording], layout, normalized)
        if "detector" in model.heads:
            (intervals,) = model.detect(**arguments)
            return {"name": recording.name, "intervals": [found._asdict() for found in intervals]}
        if "forecaster" in model.heads:
            (poses,) = model.forecast(**arguments)
            return {"name": recording.name, "poses": poses}
        (labels,) = model.classify(k=k, **arguments)
        return {"name": recording.name, "labels": labels}


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Names the recording in errors about the only sequence that a method was given."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace("Sequence 0", shown(name), 1)) from error


def _lines(result: dict[str, Any]) -> list[str]:
    if "poses" in result:
        texts = [f"{len(result['poses'])} frames predicted"]
    elif "labels" in result:
        texts = [_text(result["labels"])]
    else:
        texts = [
            f"frames {found['start']}–{found['stop'] - 1}: "
            + _text([(found["label"], found["score"])])
            for found in result["intervals"]
        ] or ["no action found"]
    return [f"{shown(result['name'])}: {text}" for text in texts]


def _text(labels: list[tuple[str, float]]) -> str:
    return ", ".join(f"{shown(label)} {100 * share:.1f} %" for label, share in labels)


def _json(result: dict[str, Any]) -> str:
    """One line; of poses only their number."""
    poses = {"frames": len(result["poses"])} if "poses" in result else {}
    return json.dumps({key: result[key] for key in result if key != "poses"} | poses)


def _write(path: Path, suffix: str, results: list[dict[str, Any]]) -> None:
    if suffix == ".npz":
        with open(path, "wb") as file:
            np.savez(file, **_arrays(results))
        return
    # File names can contain bytes that are not valid UTF-8.
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        if suffix == ".csv":
            columns, rows = _rows(results)
            write_csv(file, [columns, *rows])
        else:
            file.writelines(_json(result) + "\n" for result in results)


def _rows(results: list[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """The columns and rows of a table: a row for each label, interval, or recording."""
    if "labels" in results[0]:
        rows = [[r["name"], label, share] for r in results for label, share in r["labels"]]
        return ["name", "label", "probability"], rows
    if "intervals" in results[0]:
        columns = ["start", "stop", "label", "score"]
        rows = [[r["name"], *(i[c] for c in columns)] for r in results for i in r["intervals"]]
        return ["name", *columns], rows
    return ["name", "frames"], [[r["name"], len(r["poses"])] for r in results]


def _arrays(results: list[dict[str, Any]]) -> dict[str, Any]:
    if "poses" in results[0]:
        names = np.array([result["name"] for result in results], str)
        return {"names": names, "poses": np.stack([result["poses"] for result in results])}
    columns, rows = _rows(results)
    kinds = {"name": str, "label": str, "start": int, "stop": int}
    return {
        column: np.array([row[i] for row in rows], kinds.get(column, np.float32))
        for i, column in enumerate(columns)
    }


def live(
    online: Online, frames: Iterator[tuple[int, np.ndarray]], k: int, *, as_json: bool
) -> None:
    """Prints a line for each new label; on a terminal each overwrites the last."""
    terminal = sys.stdout.isatty() and not as_json
    start, end = ("\r\x1b[K", "") if terminal else ("", "\n")
    for number, frame in frames:
        online.push(frame)
        if not online.fresh:
            continue
        labels = online.labels[:k]
        if as_json:
            text = json.dumps({"frame": number, "label": online.label, "labels": labels})
        elif not labels:
            text = f"frame {number}: nobody seen"
            if frame.any():
                text += ", as the spine's middle is missing"
        else:
            label = "nothing" if online.label is None else shown(online.label)
            text = f"frame {number}: {label} ({_text(labels)})"
        print(f"{start}{text}", end=end, flush=True)
    if terminal:
        print()


def read_frames(lines: BinaryIO, joints: int = JOINTS) -> Iterator[tuple[int, np.ndarray]]:
    """Frame numbers from 1 and poses (M, joints, 3), as lines arrive; skips blank lines.

    A joint with a NaN coordinate is missing; it becomes zero with Kinect v2's 25 joints, and three
    NaN with another layout's.

    Raises:
      UserError: names the first line that is not a frame.
    """
    size = joints * COORDINATES
    number = frames = 0
    while line := lines.readline(_LONGEST_LINE):
        number += 1
        where = f"Standard input, line {number}"
        words = split_numbers(line.strip(b"\r\n\t "))
        if not words or not line.strip():
            continue
        persons, rest = divmod(len(words), size)
        if rest or not persons or len(line) == _LONGEST_LINE:
            raise UserError(
                f"{where}: found {len(words)} numbers where a frame of {joints} joints has {size} "
                "for each person; other joints need --layout."
            )
        try:
            values = numbers_of_line(line, nan=True)
        except ValueError as error:
            raise UserError(f"{where}: {error}.") from None
        pose = np.array(values).reshape(persons, joints, COORDINATES)
        pose[np.isnan(pose).any(axis=-1)] = 0 if joints == JOINTS else np.nan
        if np.nanmax(np.abs(pose), initial=0) > MAX_METRES:
            raise UserError(
                f"{where}: found a coordinate that is not within {MAX_METRES:.0f} metres."
            )
        frames += 1
        yield frames, pose
