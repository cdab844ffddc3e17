"""One split of a built data set: its sequences, in device memory or read on demand."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow_datasets as tfds

from pcm3_jax.data.built import named_if_damaged, open_built
from pcm3_jax.data.normalization import normalization_of
from pcm3_jax.data.skeleton import FEATURES, PERSONS
from pcm3_jax.errors import UserError, suggestion
from pcm3_jax.runtime.parallel import Devices


@dataclasses.dataclass(frozen=True)
class Recordings:
    """Sequences of one split.

    Attributes:
      split: the data set's name and the split in brackets, for messages.
      length: (S,) int32, frames of each sequence, at most ``max_frames``.
      label: (S,) int32; -1 for whole videos.
      name: S sequence names.
      classes: names of the labels.
      max_frames: longer recordings are cut.
      frames: packed frames (F, M * V * C) float32 in metres, without padding, on every device; or
        None where they are read from ``source`` on demand.  Flat, because accelerators pad the last
        two axes of an array: (25, 3) would occupy (32, 128) on a TPU.
      start: (S,) int32, first frame of each sequence in ``frames``; None without ``frames``.
      source: random-access records.
      persons: 2 if any sequence has a second person, else 1.
      actions: for whole videos, (K, 3) int32 rows (label, start, stop) of each; otherwise empty.
    """

    split: str
    length: np.ndarray
    label: np.ndarray
    name: list[str]
    classes: list[str]
    max_frames: int
    frames: jax.Array | None
    start: np.ndarray | None
    source: Any
    persons: int = PERSONS
    actions: list[np.ndarray] = dataclasses.field(default_factory=list)

    def __len__(self) -> int:
        return len(self.length)

    @property
    def window(self) -> int:
        """As `window_of` its sequences."""
        return window_of(self.length)

    @property
    def data_name(self) -> str:
        """Name of the data set, "name" or "name/config"."""
        return self.split.partition(" ")[0]

    def examples(self, ids: np.ndarray | None = None) -> list[dict[str, Any]]:
        """Reads sequences from disk, by default all, with skeletons of at most ``max_frames``."""
        wanted = np.arange(len(self)) if ids is None else ids
        found = self.source.__getitems__(wanted.tolist())
        return [e | {"skeleton": e["skeleton"][: self.max_frames]} for e in found]

    def padded(self, ids: np.ndarray) -> np.ndarray:
        """Reads sequences from disk: (len(ids), max_frames, M * V * C), zeros after their end."""
        skeletons = [_flat(example["skeleton"]) for example in self.examples(ids)]
        out = np.zeros((len(ids), self.max_frames, skeletons[0].shape[1]), np.float32)
        for row, skeleton in zip(out, skeletons, strict=True):
            row[: len(skeleton)] = skeleton
        return out

    def packed(self) -> tuple[jax.Array, np.ndarray]:
        """Returns ``frames`` and ``start``.

        Raises:
          ValueError: they are None, because the sequences are read on demand.
        """
        if self.frames is None or self.start is None:
            raise ValueError(f"the frames of {self.split} are not in device memory")
        return self.frames, self.start


def window_of(lengths: np.ndarray | Sequence[int]) -> int:
    """Frames to classify online after training on sequences (S,) of these lengths.

    Nine in ten sequences are that long or shorter.
    """
    return int(np.quantile(lengths, 0.9))


def read(
    name: str,
    data_dir: str,
    split: str,
    max_frames: int,
    devices: Devices,
    *,
    resident: bool,
    untrimmed: bool | None = False,
) -> Recordings:
    """Reads a split of a data set that `tfds_builders.build` has built.

    Args:
      name: "data_set" or "data_set/config".
      data_dir: where it was built.
      split: "train" or "test".
      max_frames: longer recordings are cut.
      devices: where the frames are kept.
      resident: whether to keep the frames in device memory.
      untrimmed: whether the task needs whole videos with several actions; None for either.

    Raises:
      UserError: the data set or split does not exist or is damaged, is trimmed where ``untrimmed``
        is set or vice versa, or has a sequence that cannot be used.
    """
    folder = find(name, data_dir)
    builder = open_built(folder)
    with named_if_damaged(folder):
        splits = sorted(builder.info.splits)
        source = builder.as_data_source(split) if split in splits else None
    if source is None:
        raise UserError(f"Data set {name!r} in {data_dir} has no split {split!r}; it has {splits}.")
    features = builder.info.features
    if untrimmed is None:
        untrimmed = "actions" in features
    if untrimmed != ("actions" in features):
        single, whole = "recordings of one action", "whole videos with their actions"
        has, needed = (single, whole) if untrimmed else (whole, single)
        raise UserError(
            f"Data set {name!r} has {has}, but this task needs {needed}: set config.data.name to "
            "another data set or configuration."
        )
    classes = (features["actions"]["label"] if untrimmed else features["label"]).names
    frames, length, label, actions, names = [], [], [], [], []
    persons = 1
    for example in _examples(source, folder):
        skeleton = example["skeleton"][:max_frames]
        sequence = example["name"].decode()
        _check(skeleton, f"Sequence {sequence!r} of {name!r} ({split}) in {data_dir}")
        length.append(len(skeleton))
        label.append(-1 if untrimmed else example["label"])
        if untrimmed:
            columns = (example["actions"][key] for key in ("label", "start", "stop"))
            actions.append(np.stack([np.asarray(c, np.int32) for c in columns], axis=1))
        names.append(sequence)
        persons = max(persons, 1 + bool(skeleton[:, 1:].any()))
        if resident:
            frames.append(_flat(skeleton))
    lengths = np.array(length, np.int32)
    return Recordings(
        split=f"{name} ({split})",
        length=lengths,
        label=np.array(label, np.int32),
        actions=actions,
        name=names,
        classes=classes,
        max_frames=max_frames,
        frames=devices.replicate(np.concatenate(frames)) if resident else None,
        start=np.cumsum(lengths, dtype=np.int32) - lengths if resident else None,
        source=source,
        persons=persons,
    )


def joined(parts: Sequence[Recordings]) -> Recordings:
    """Several splits of recordings of one action as one, for training without labels.

    Only the first keeps its labels and classes; the label of the others is -1.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    length = np.concatenate([part.length for part in parts])
    # Data of one person gets a second person of zeros where others have two.
    frames = [_of_two_persons(part.frames) for part in parts if part.frames is not None]
    return dataclasses.replace(
        first,
        split=" + ".join(part.split for part in parts),
        length=length,
        label=np.concatenate(
            [first.label, *(np.full(len(part), -1, np.int32) for part in parts[1:])]
        ),
        name=[name for part in parts for name in part.name],
        frames=jnp.concatenate(frames, axis=-2) if frames else None,
        start=np.cumsum(length, dtype=np.int32) - length if frames else None,
        source=_Joined([part.source for part in parts]),
        persons=max(part.persons for part in parts),
    )


class _Joined:
    """Several sources of records as one."""

    def __init__(self, sources: Sequence[Any]) -> None:
        self._sources = sources
        self._stop = np.cumsum([len(source) for source in sources])

    def __getitems__(self, ids: Sequence[int]) -> list[Any]:
        found = []
        for number in ids:
            source = int(np.searchsorted(self._stop, number, side="right"))
            first = self._stop[source] - len(self._sources[source])
            (example,) = self._sources[source].__getitems__([int(number - first)])
            skeleton = example["skeleton"]
            absent = ((0, 0), (0, PERSONS - skeleton.shape[1]), (0, 0), (0, 0))
            found.append(example | {"skeleton": np.pad(skeleton, absent)})
        return found


def _of_two_persons(frames: jax.Array) -> jax.Array:
    return jnp.pad(frames, ((0, 0), (0, FEATURES - frames.shape[1])))


def _flat(skeleton: np.ndarray) -> np.ndarray:
    return skeleton.reshape(len(skeleton), -1)


def _examples(source: Sequence[dict], folder: Path) -> Iterator[dict]:
    with named_if_damaged(folder):
        yield from source


def find(name: str, data_dir: str) -> Path:
    """The folder of the highest version of a built data set.

    A name without configuration means the configuration "default", or else the only one.

    Raises:
      UserError: the data set is not built; it has several configurations, none of them "default";
        or the only one stores coordinates differently from what ``name`` implies.
    """
    data_root = Path(data_dir).expanduser()
    root = data_root / name
    # "name/version" or, where the data set has configurations, "name/config/version".
    found = sorted(root.glob("*/dataset_info.json")) or sorted(root.glob("*/*/dataset_info.json"))
    folders = {path.parent for path in found if tfds.core.Version.is_valid(path.parent.name)}
    folders = {folder for folder in folders if folder.parent == root / "default"} or folders
    configs = {folder.parent for folder in folders}
    if not folders:
        infos = [
            *data_root.glob("*/*/dataset_info.json"),
            *data_root.glob("*/*/*/dataset_info.json"),
        ]
        end = suggestion(name, {str(path.parents[1].relative_to(data_root)) for path in infos})
        raise UserError(
            f"There is no data set {name!r} in {data_dir}: build it with `python -m "
            f"tfds_builders.build {name} --data_dir={data_dir} [--manual_dir=DOWNLOAD]`, or set "
            f"config.data.dir{end or '.'}"
        )
    if len(configs) > 1:
        options = sorted(str(path.relative_to(root.parent)) for path in configs)
        raise UserError(
            f"Data set {name!r} in {data_dir} has several configurations: set config.data.name "
            f"to one of {options}."
        )
    (config,) = configs
    full = str(config.relative_to(data_root))
    if normalization_of(full) is not normalization_of(name):
        raise UserError(
            f"Data set {name!r} in {data_dir} stores coordinates differently from what that name "
            f"implies: set config.data.name to {full!r}."
        )
    return max(folders, key=lambda folder: tfds.core.Version(folder.name))


def count(name: str, data_dir: str, split: str) -> int:
    """Number of sequences in a split of a built data set.

    Raises:
      UserError: as in `find`, or the data set cannot be read.
    """
    folder = find(name, data_dir)
    builder = open_built(folder)
    with named_if_damaged(folder):
        return builder.info.splits[split].num_examples


def _check(skeleton: np.ndarray, what: str) -> None:
    if skeleton.ndim != 4 or skeleton.shape[1:] not in ((1, 25, 3), (2, 25, 3)):
        raise UserError(f"{what} has shape {skeleton.shape} instead of (frames, 2, 25, 3).")
    if len(skeleton) < 2:
        raise UserError(f"{what} has {len(skeleton)} frames; a sequence needs at least 2.")
    if not np.isfinite(skeleton).all():
        frame = int(np.argwhere(~np.isfinite(skeleton))[0, 0])
        raise UserError(f"{what} has a coordinate that is not finite in frame {frame}.")
