"""Builder of `own_skeletons` from array files and a table of labels."""

import dataclasses
import functools
import io
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from pcm3_jax.data.formats import raw_files
from pcm3_jax.data.formats.arrays import read_arrays, read_skeleton, seems_mirrored
from pcm3_jax.data.formats.labels_csv import SPLITS, Table, read_labels
from pcm3_jax.data.formats.raw_files import BadFile, RawFile
from pcm3_jax.data.joint_layouts import LAYOUTS
from pcm3_jax.errors import UserError
from pcm3_jax.runtime.files import shown
from tfds_builders import workers
from tfds_builders.file_groups import Clip, FileGroup, StoredClip
from tfds_builders.recorded_builder import Record, RecordedBuilder
from tfds_builders.skeleton_builder import SkeletonConfig

_TABLE = "labels.csv"
_FILES_OF_A_GROUP = 256


@dataclasses.dataclass(eq=False, kw_only=True)
class LayoutConfig(SkeletonConfig):
    """`layout` is the name of the joint layout of the files."""

    layout: str


class Builder(RecordedBuilder):
    """Sequences of your own; the config names their joint layout."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"manual_dir is a folder, or an archive of it, with {_TABLE} and the .npy or .npz files "
        "that it lists, as docs/own_data.md describes."
    )
    BUILDER_CONFIGS = [
        LayoutConfig(name=name, layout=name, description=f"Files of {len(layout.joints)} joints.")
        for name, layout in LAYOUTS.items()
    ]
    SUFFIX = (".npy", ".npz", _TABLE)

    def __init__(self, *, manual_dir: Path | None = None, **kwargs: Any):
        self._table_place, self._table = "", Table([], [])
        # TFDS reads `LABELS` on construction. `manual_dir` may be missing if the data set is built
        # already; otherwise the build command raises an error.
        if manual_dir is not None and manual_dir.exists():
            table = _find_table(manual_dir)
            self._table_place, self._table = table.file, read_labels(table.read(), table.file)
        super().__init__(manual_dir=manual_dir, **kwargs)

    @property
    def LABELS(self) -> Sequence[str]:
        return sorted({row.label for row in self._table.rows})

    def _file_groups(self, files: Sequence[RawFile]) -> list[FileGroup]:
        for flaw in self._table.flaws:
            self._refuse(flaw)
        folder = posixpath.dirname(self._table_place)
        found = {posixpath.relpath(f.file, folder): f for f in files if f.name != _TABLE}
        # If an archive has several folders, only files below the table's folder are used.
        found = {name: file for name, file in found.items() if not name.startswith("../")}
        wanted = {}
        for row in self._table.rows:
            if row.file in found:
                wanted[row.file] = found[row.file]
                continue
            reason = f"found {row.file!r}, but {folder} has no such .npy or .npz file"
            self._refuse(BadFile(self._table_place, row.line, reason))
        listed = {row.file for row in self._table.rows}
        for name in sorted(found.keys() - listed):
            self.report.leave_out(shown(name), f"not in {_TABLE}")
        layout = self.builder_config.layout
        items = sorted(wanted.items())
        chunks = [items[i : i + _FILES_OF_A_GROUP] for i in range(0, len(items), _FILES_OF_A_GROUP)]
        parse = functools.partial(parse_file, layout, folder)
        # The fingerprint keeps the groups of two data sets of the same layout apart.
        return [
            FileGroup(
                f"{layout}-{workers.fingerprint([file.file for _, file in chunk])}",
                tuple((file,) for _, file in chunk),
                parse,
            )
            for chunk in chunks
        ]

    def _records(self, clips: Iterable[StoredClip]) -> Iterator[tuple[str, Record]]:
        by_name = {clip.name: clip for clip in clips}
        rows = [row for row in self._table.rows if row.file in by_name]
        trained = {row.label for row in rows if row.split == "train"}
        label_of = {name: label for label, name in enumerate(self.LABELS)}
        for row in sorted(rows):
            if row.label not in trained:  # possible if files were skipped
                reason = "no sequence of its label is left in the train split"
                self.report.leave_out(row.file, reason)
                continue
            clip = by_name[row.file]
            place = {"subject": row.performer, "camera": 0, "setup": 0}
            fields = {"name": row.file, "label": label_of[row.label], **place}
            yield row.split, Record(clip, 0, clip.frames, fields)
        in_both = set.intersection(
            *({row.performer for row in rows if row.split == split} for split in SPLITS)
        )
        if in_both:
            self.report.notes.append(
                f"performers in both splits: {', '.join(map(str, sorted(in_both)))}"
            )
        known = [m for clip in by_name.values() if (m := clip.info["mirrored"]) is not None]
        if sum(known) > len(known) / 2:
            self.report.notes.append(
                f"feet point backwards in {sum(known):,} of {len(known):,} sequences: if left and "
                "right joints are not swapped, the axes are left-handed; negate one of them"
            )


def _find_table(manual_dir: Path) -> RawFile:
    tables = [f for f in raw_files.find_files(manual_dir, _TABLE) if f.name == _TABLE]
    if len(tables) != 1:
        some = ", ".join(table.file for table in tables[:2]) or "none"
        raise UserError(f"{manual_dir} must hold one {_TABLE}, but has {len(tables)} ({some}).")
    return tables[0]


def parse_file(layout: str, folder: str, file: RawFile) -> Clip:
    """The clip of one array file; raises BadFile."""
    try:
        arrays = read_arrays(io.BytesIO(file.read()))
        if len(arrays) != 1:
            raise ValueError(f"found {len(arrays)} arrays where one sequence was expected")
        (array,) = arrays.values()
        skeleton = read_skeleton(array, LAYOUTS[layout])
        if len(skeleton) < 2:
            raise ValueError("found one frame where at least 2 were expected")
    except ValueError as error:
        raise BadFile(file.file, None, str(error)) from error
    name = posixpath.relpath(file.file, folder)
    return Clip(name, skeleton, {"mirrored": seems_mirrored(skeleton)})
