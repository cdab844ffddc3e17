"""Raw files parsed once, part by part, into arrays that every protocol of a data set shares."""

import functools
import json
import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfds_builders import workers
from tfds_builders.raw_files import BadFile, RawFile


class Clip(NamedTuple):
    """One recording as parsed.

    Attributes:
        name: unique in the data set.
        skeleton: (T, P, 25, 3) float32 metres, P one or two persons; NaN where a joint is missing,
            zeros where a person is absent.
        info: what else its builder wants to know of it, of JSON's types.
    """

    name: str
    skeleton: np.ndarray
    info: dict[str, Any]


@dataclass(frozen=True)
class Part:
    """Recordings that are parsed together.

    Attributes:
        name: unique in the data set; part of a file name.
        recordings: the raw files of each.
        parse: (*files of a recording) → its clip, or raises BadFile; can be pickled.
    """

    name: str
    recordings: tuple[tuple[RawFile, ...], ...]
    parse: Callable[..., Clip]


@dataclass(frozen=True)
class StoredClip:
    """A parsed recording: rows of the file `poses` from `start` on, person after person."""

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
    """All parts of a data set, parsed: clips and flaws by part, and megabytes of a process."""

    clips: list[StoredClip]
    flaws: list[BadFile]
    peak_memory_mb: float


def parse_all(
    parts: Sequence[Part], folder: Path, version: str, processes: int, *, stop_at_flaw: bool
) -> Parsed:
    """Parses what is not there already.

    Args:
        parts: in the order of the result.
        folder: keeps parsed parts; made if need be.
        version: of the parsers: parts that another version wrote are parsed again.
        processes: how many parse at once.
        stop_at_flaw: raise the first flaw.

    Raises:
        BadFile: the first flaw in the order of the parts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    workers.remove_unfinished(folder)
    clips, flaws, memory = [], [], 0.0
    results = workers.run(
        functools.partial(_parse_part, folder, version),
        parts,
        processes,
        sizes=[len(part.recordings) for part in parts],
        description="parsing",
        unit="recordings",
    )
    for index in results:
        poses = str(folder / index["poses"])
        clips += [StoredClip(**clip, poses=poses) for clip in index["clips"]]
        flaws += [BadFile(*flaw) for flaw in index["flaws"]]
        memory = max(memory, index["peak_memory_mb"])
        if flaws and stop_at_flaw:
            raise flaws[0]
    return Parsed(clips, flaws, memory)


def _parse_part(folder: Path, version: str, part: Part) -> dict[str, Any]:
    """The index of a parsed part; its poses lie beside it in one array, without padding."""
    # The name tells what was parsed, so that a changed file is parsed again.
    stamps = [(file.name, file.stamp) for files in part.recordings for file in files]
    mark = workers.fingerprint(version, stamps)
    index_file = folder / f"{part.name}-{mark}.json"
    if index_file.exists():
        return json.loads(index_file.read_text())
    for outdated in folder.glob(f"{part.name}-*"):
        outdated.unlink()
    clips, flaws, poses, start = [], [], [np.zeros((0, 25, 3), np.float32)], 0
    for files in part.recordings:
        try:
            clip = part.parse(*files)
        except BadFile as flaw:
            flaws.append([flaw.file, flaw.line, flaw.reason])
            continue
        frames, persons = clip.skeleton.shape[:2]
        info = {"name": clip.name, "info": clip.info}
        clips.append(info | {"frames": frames, "persons": persons, "start": start})
        poses.append(clip.skeleton.swapaxes(0, 1).reshape(-1, 25, 3))
        start += frames * persons
    poses_file = index_file.with_suffix(".npy")
    workers.write_whole(poses_file, lambda path: _save(path, np.concatenate(poses)))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    index = {"poses": poses_file.name, "clips": clips, "flaws": flaws, "peak_memory_mb": memory}
    # Last: an index says that its part is whole.
    workers.write_whole(index_file, lambda path: path.write_text(json.dumps(index)))
    return index


def _save(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:  # np.save would add a suffix to a path
        np.save(file, array)
