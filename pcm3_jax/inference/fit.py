"""A recogniser of actions from a few labelled recordings.

`pcm3_jax.fit` is the command line.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pcm3_jax.data.formats.labels_csv import Row, read_labels
from pcm3_jax.data.formats.raw_files import needed
from pcm3_jax.data.recordings import window_of
from pcm3_jax.errors import UserError
from pcm3_jax.inference import model as library
from pcm3_jax.inference import recogniser, skeleton_files
from pcm3_jax.inference.recogniser import Recogniser
from pcm3_jax.inference.skeleton_files import Recording
from pcm3_jax.runtime.files import opened, shown

# Confusion matrices of more classes are wider than a terminal.
_MATRIX_CLASSES = 12
_LISTED = 10


def run(flags: argparse.Namespace) -> None:
    """Runs `pcm3 fit`.  Raises UserError if a file cannot be read, fitted or written."""
    name, _, split = flags.files.rpartition(":")
    if name and split in skeleton_files.SPLITS:
        found = skeleton_files.read_data_set(name, split, flags.data_dir)
        rows = [
            Row(recording.name, recording.label, recording.performer, split, line)
            for line, recording in enumerate(found, 1)
        ]
    else:
        table = Path(flags.files)
        rows = read_table(table)
        found = [_recording(table, row, flags.layout) for row in rows]
    model = library.load(flags.model, flags.persons)
    skeleton_files.print_layout_note(flags.model, flags.layout)
    skeleton_files.print_persons_note(model, found)
    skeleton_files.print_notes(skeleton_files.measures(found, flags.layout))
    features = skeleton_files.embed(model, found, flags.layout, flags.normalized)
    performers = [row.performer for row in rows]
    fitted = recogniser.fit(features, [row.label for row in rows], performers)
    for line in report(fitted, rows, recogniser.suspects(features, fitted, performers)):
        print(line)
    fitted_model = model.with_classifier(
        fitted,
        window=window_of([len(recording.skeletons) for recording in found]),
        persons=min(model.persons, max(recording.persons for recording in found)),
    )
    fitted_model.save(flags.out)
    print(
        f"{shown(str(flags.out))}: {len(fitted.classes)} labels, "
        f"{flags.out.stat().st_size / 1e6:.1f} MB; online, the last {fitted_model.window} frames "
        f"count, and below {100 * fitted.threshold:.1f} % it says nothing"
    )


def read_table(path: Path) -> list[Row]:
    """The rows of a table of labels.

    Raises:
      UserError: the table cannot be read, or a row is flawed.
    """
    try:
        with opened(path) as file:
            content = file.read()
    except OSError as error:
        raise UserError(f"{shown(str(path))} cannot be read: {error.strerror}.") from error
    with needed(skeleton_files.REPAIR):
        table = read_labels(content, str(path), splits=False)
        if table.flaws:
            raise table.flaws[0]
    return table.rows


def _recording(table: Path, row: Row, layout: str | None) -> Recording:
    name = str(table.parent / row.file)
    found = skeleton_files.read(name, layout)
    if len(found) > 1:
        raise UserError(
            f"{shown(name)} holds {len(found)} sequences, but line {row.line} of "
            f"{shown(str(table))} needs one: write each to a file of its own."
        )
    return found[0]


def report(fitted: Recogniser, rows: list[Row], suspects: list[tuple[int, int]]) -> Iterator[str]:
    """Lines about the validation of a recogniser of a table's rows."""
    performers = {row.performer for row in rows}
    yield (
        f"{len(rows)} recordings of {len(fitted.classes)} labels by {len(performers)} "
        f"{'performer' if len(performers) == 1 else 'performers'}; all are used, whatever their "
        "split"
    )
    held = "performers" if fitted.by_performer else "recordings"
    yield (
        f"held-out {held}: {100 * fitted.accuracy:.1f} % of {fitted.validated.sum()} recordings "
        f"recognised (chance: {100 / len(fitted.classes):.1f} %; strength C = {fitted.strength})"
    )
    if not fitted.by_performer:
        yield "no other performer does the same actions: expect less of people not seen here"
    yield from _confusions(fitted)
    yield from _too_few(fitted, rows)
    if suspects:
        yield "may be mislabelled (nearest recording of another label):"
        for index, nearest in suspects[:_LISTED]:
            row, other = rows[index], rows[nearest]
            yield (
                f"  {shown(row.file)}: labelled {row.label!r}, but like {other.label!r} "
                f"({shown(other.file)})"
            )
        if len(suspects) > _LISTED:
            yield f"  and {len(suspects) - _LISTED} more"


def _confusions(fitted: Recogniser) -> Iterator[str]:
    """The confusion matrix, or of many classes only the most frequent confusions."""
    counts, classes = fitted.confusions, fitted.classes
    if len(classes) <= _MATRIX_CLASSES:
        cell = max(len(str(counts.max())), len(str(len(classes)))) + 2
        name = max(map(len, classes)) + len(f"{len(classes)}  ")
        yield "confusion matrix (rows: the label; columns: the label recognised):"
        yield " " * (name + 2) + "".join(f"{i + 1:>{cell}}" for i in range(len(classes)))
        for i, (label, row) in enumerate(zip(classes, counts, strict=True)):
            numbers = "".join(f"{count or '.':>{cell}}" for count in row)
            yield f"  {f'{i + 1}  {label}':<{name}}{numbers}"
        return
    wrong = np.where(np.eye(len(classes), dtype=bool), 0, counts)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_LISTED]
    pairs = [(i, j) for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True)
             if wrong[i, j]]  # fmt: skip
    if pairs:
        yield "most frequent confusions:"
    for i, j in pairs:
        yield (f"  {classes[i]!r} recognised as {classes[j]!r}: {wrong[i, j]} of {counts[i].sum()}")


def _too_few(fitted: Recogniser, rows: list[Row]) -> Iterator[str]:
    """Labels without a validated recording."""
    recordings = Counter(fitted.labels.tolist())
    unknown = sorted(recordings.keys() - set(fitted.labels[fitted.validated].tolist()))
    if unknown:
        counted = [
            f"{fitted.classes[i]!r} ({recordings[i]} "
            f"{'recording' if recordings[i] == 1 else 'recordings of one performer'})"
            for i in unknown
        ]
        yield f"too few examples to validate: {', '.join(counted)}"
