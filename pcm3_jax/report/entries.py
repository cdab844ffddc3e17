"""The recordings of a page of `pcm3_jax.show`, from files and built data sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pcm3_jax.data import recordings
from pcm3_jax.data.normalization import no_normalization, normalization_of, normalize_sequence
from pcm3_jax.data.recordings import Recordings
from pcm3_jax.data.skeleton import missing_joints
from pcm3_jax.inference import skeleton_files
from pcm3_jax.inference.validation import Sequence, read_sequence
from pcm3_jax.report.sequences import spread_frames, spread_labels
from pcm3_jax.runtime.parallel import Devices
from pcm3_jax.settings import Config

# Recordings on a page, and of a data set's training split that a model searches.
MOST, _GALLERY = 24, 2000
# Untrimmed videos are shown whole.
_WHOLE = np.iinfo(np.int32).max


@dataclasses.dataclass(frozen=True)
class Entry:
    """A recording.

    Attributes:
      name: its file or, of a data set, its name there.
      sequence: its skeletons, as stored.
      stored: the normalisation that they have already.
      label: the action; None if unknown.
      data: the data set; None for a file.
    """

    name: str
    sequence: Sequence
    stored: Callable[[np.ndarray], np.ndarray]
    label: str | None = None
    data: str | None = None

    @property
    def title(self) -> str:
        """The name without folders."""
        return self.name.rpartition("/")[2]

    @property
    def raw(self) -> bool:
        """Whether the skeletons are as recorded."""
        return self.stored is no_normalization

    @property
    def persons(self) -> int:
        return 1 + bool(self.sequence.poses[:, 1].any())


@dataclasses.dataclass
class Entries:
    """What a page shows.

    Attributes:
      shown: at most `MOST` recordings.
      count: recordings in all files and splits.
      others: recordings that are searched along with those that are shown.
      searched: all of these, in words.
    """

    shown: list[Entry]
    count: int
    others: list[Entry]
    searched: str = "the recordings named"


def read(
    sources: list[str], data_dir: str, layout: str | None, *, normalized: bool, search: bool
) -> Entries:
    """Reads files and splits of data sets.

    Args:
      sources: files, folders, archives, or "DATA_SET" or "DATA_SET:SPLIT".
      data_dir: folder of the built data sets.
      layout: the joints of the files.
      normalized: whether files are normalised already.
      search: whether to read other recordings, too: those of files beyond the first `MOST`, and of
        a data set's training split.

    Raises:
      UserError: a file or a data set cannot be read.
    """
    found = Entries([], 0, [])
    for source in sources:
        room = MOST - len(found.shown)
        name, _, split = source.rpartition(":")
        there = Path(source).exists()
        if name and split in skeleton_files.SPLITS and not there:
            _add_split(found, name, split, data_dir, room, search)
        elif not Path(source).suffix and not there:
            _add_split(found, source, "test", data_dir, room, search)
        else:
            stored = normalize_sequence if normalized else no_normalization
            entries = [
                Entry(one.name, read_sequence(one.skeletons, one.name, layout=layout), stored)
                for one in skeleton_files.read(source, layout)
            ]
            found.shown += entries[:room]
            found.others += entries[room:]
            found.count += len(entries)
    return found


def _add_split(
    found: Entries, name: str, split: str, data_dir: str, room: int, search: bool
) -> None:
    """Adds recordings of different labels of a split, and others of the training split."""
    part = _split(name, split, data_dir)
    chosen = spread_labels(np.arange(len(part)), part.label)[:room]
    found.shown += _entries(part, chosen)
    found.count += len(part)
    if search:
        train = part if split == "train" else _split(name, "train", data_dir)
        some = spread_frames(len(train), _GALLERY).tolist()
        shown = set(chosen) if train is part else set()
        found.others += _entries(train, [i for i in some if i not in shown])
        count = f"{len(some):,} of {len(train):,}" if len(some) < len(train) else f"{len(train):,}"
        found.searched += f" and {count} training recordings of {name}"


def _split(name: str, split: str, data_dir: str) -> Recordings:
    return recordings.read(
        name, data_dir, split, _WHOLE, Devices(Config().mapping), resident=False, untrimmed=None
    )


def _entries(part: Recordings, indices: list[int]) -> list[Entry]:
    found = []
    for index, example in zip(indices, part.examples(np.array(indices, int)), strict=True):
        skeleton, name = example["skeleton"], part.name[index]
        sequence = read_sequence(skeleton, name, missing_joints(skeleton))
        label = part.classes[part.label[index]] if part.label[index] >= 0 else None
        stored = normalization_of(part.data_name)
        found.append(Entry(name, sequence, stored, label, part.data_name))
    return found
