"""Parses raw files in groups, once for all configs of a data set, and stores the arrays."""

import functools
import itertools
import json
import resource
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from pcm3_jax.data.formats.raw_files import BadFile, RawFile
from pcm3_jax.runtime.files import crc, whole, write_text
from tfds_builders import workers


class Clip(NamedTuple):
    """One parsed recording.

    Attributes:
        name: unique in the data set.
        skeleton: (T, P, 25, 3) float32 metres, P = 1 or 2 persons; NaN where a joint is missing,
            zeros where a person is absent.
        info: further values that the builder needs, JSON-compatible.
    """

    name: str
    skeleton: np.ndarray
    info: dict[str, Any]


class Source(Protocol):
    """What a recording is parsed from: a `RawFile`, or a part of a file."""

    @property
    def name(self) -> str: ...

    @property
    def stamp(self) -> str:
        """Changes when the content does."""


@dataclass(frozen=True)
class FileGroup:
    """Recordings that are parsed together, by one worker.

    Attributes:
        name: unique in the data set; part of a file name.
        recordings: the sources of each recording.
        parse: (*sources of a recording) -> its clip, or raises BadFile; must be picklable.
    """

    name: str
    recordings: tuple[tuple[Source, ...], ...]
    parse: Callable[..., Clip]


def group_files(
    files: Iterable[RawFile], key: Callable[[RawFile], str], parse: Callable[[RawFile], Clip]
) -> list[FileGroup]:
    """Groups files that each are one recording; adjacent files with equal `key` form a group."""
    return [
        FileGroup(name, tuple((file,) for file in some), parse)
        for name, some in itertools.groupby(files, key)
    ]


@dataclass(frozen=True)
class StoredClip:
    """A parsed recording: rows of the array file `poses` from `start`, person by person."""

    name: str
    info: dict[str, Any]
    frames: int
    persons: int
    start: int
    poses: str

    def load(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """(T, 2, 25, 3) float32 metres of frames `start` to `stop`; an absent person is zeros."""
        poses = np.load(self.poses, mmap_mode="r")
        end = self.start + self.frames * self.persons
        people = poses[self.start : end].reshape(self.persons, self.frames, 25, 3)
        seen = people[:, start:stop].swapaxes(0, 1)
        skeleton = np.zeros((len(seen), 2, 25, 3), np.float32)
        skeleton[:, : self.persons] = seen
        return skeleton


class Parsed(NamedTuple):
    """A group's clips and bad files, and the peak memory (MB) of the process that parsed it."""

    clips: list[StoredClip]
    flaws: list[BadFile]
    peak_memory_mb: float


def parse_all(
    groups: Sequence[FileGroup], folder: Path, version: str, processes: int
) -> Iterator[Parsed]:
    """Parses the groups that `folder` does not hold yet, and yields all in order.

    Args:
        groups: what to parse.
        folder: keeps parsed groups; created if missing.
        version: version of the parsers; groups parsed by another version are parsed again.
        processes: number of processes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    workers.remove_unfinished(folder)
    parse = functools.partial(_parse_group, folder, version)
    sizes = [len(group.recordings) for group in groups]
    for index in workers.run(parse, groups, processes, sizes, "parsing", "recordings"):
        poses = str(folder / index["poses"])
        yield Parsed(
            [StoredClip(**clip, poses=poses) for clip in index["clips"]],
            [BadFile(*flaw) for flaw in index["flaws"]],
            index["peak_memory_mb"],
        )


def _parse_group(folder: Path, version: str, group: FileGroup) -> dict[str, Any]:
    """The index of a parsed group, whose poses are stored beside it in one array.

    A second person who is absent throughout is not stored.
    """
    # The file name has a hash of the raw files' stamps, so that changed files are parsed again.
    stamps = [(file.name, file.stamp) for files in group.recordings for file in files]
    mark = workers.fingerprint(version, stamps)
    index_file = folder / f"{group.name}-{mark}.json"
    if (index := _read_index(index_file)) is not None:
        return index
    for outdated in folder.glob(f"{group.name}-*"):
        outdated.unlink()
    clips, flaws, poses, start = [], [], [np.zeros((0, 25, 3), np.float32)], 0
    for files in group.recordings:
        try:
            clip = group.parse(*files)
        except BadFile as flaw:
            flaws.append([flaw.file, flaw.line, flaw.reason])
            continue
        frames, persons = len(clip.skeleton), 2 if clip.skeleton[:, 1:].any() else 1
        info = {"name": clip.name, "info": clip.info}
        clips.append(info | {"frames": frames, "persons": persons, "start": start})
        poses.append(clip.skeleton[:, :persons].swapaxes(0, 1).reshape(-1, 25, 3))
        start += frames * persons
    poses_file = index_file.with_suffix(".npy")
    with whole(poses_file) as partial:
        with open(partial, "wb") as file:
            np.save(file, np.concatenate(poses))
        checksum = crc(partial)
    index = {
        "poses": poses_file.name,
        "poses_checksum": checksum,
        "clips": clips,
        "flaws": flaws,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    # Written last: an index marks its group as complete.
    text = json.dumps(index)
    write_text(index_file, f"{zlib.crc32(text.encode()):08x} {text}")
    return index


def _read_index(file: Path) -> dict[str, Any] | None:
    """The index of a group that is stored and undamaged; None for any other."""
    try:
        checksum, _, text = file.read_text(encoding="utf-8").partition(" ")
        if checksum != f"{zlib.crc32(text.encode()):08x}":
            return None
        index = json.loads(text)
        return index if crc(file.with_name(index["poses"])) == index["poses_checksum"] else None
    except (FileNotFoundError, UnicodeDecodeError):
        return None
