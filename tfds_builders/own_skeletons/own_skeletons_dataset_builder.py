"""Builder of `own_skeletons` from array files and a table of labels."""

import dataclasses
import functools
import io
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from pcm3_jax.data.array_files import read_npy, read_npz
from pcm3_jax.data.joint_layouts import LAYOUTS
from pcm3_jax.data.skeleton_arrays import read_skeleton
from pcm3_jax.errors import UserError
from pcm3_jax.runtime.files import shown
from tfds_builders import raw_files, workers
from tfds_builders.own_skeletons.handedness import seems_mirrored
from tfds_builders.own_skeletons.labels_file import SPLITS, Table, read_labels
from tfds_builders.parts import Clip, Part, StoredClip
from tfds_builders.raw_files import BadFile, RawFile
from tfds_builders.recorded_builder import Record, RecordedBuilder, Report
from tfds_builders.skeleton_builder import SkeletonConfig

_TABLE = "labels.csv"
_FILES_OF_A_PART = 256
_MIN_FRAMES = 2  # a motion needs them


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
        "that it lists; docs/own_data.md says how."
    )
    BUILDER_CONFIGS = [
        LayoutConfig(name=name, layout=name, description=f"Files of {len(layout.joints)} joints.")
        for name, layout in LAYOUTS.items()
    ]
    SUFFIX = (".npy", ".npz", _TABLE)

    def __init__(self, *, manual_dir: Path | None = None, **kwargs: Any):
        self._table_place, self._table = "", Table([], [])
        # The labels are part of what TFDS wants to know at once. Where there is no folder, the
        # data set may be built already, or the command says so.
        if manual_dir is not None and manual_dir.exists():
            table = _find_table(manual_dir)
            self._table_place, self._table = table.file, read_labels(table.read(), table.file)
        super().__init__(manual_dir=manual_dir, **kwargs)

    @property
    def LABELS(self) -> Sequence[str]:
        return sorted({row.label for row in self._table.rows})

    def _parts(self, files: Sequence[RawFile], report: Report) -> list[Part]:
        for flaw in self._table.flaws:
            self._refuse(flaw, report)
        folder = posixpath.dirname(self._table_place)
        found = {posixpath.relpath(f.file, folder): f for f in files if f.name != _TABLE}
        # Of archives of several folders, only what lies under the table's.
        found = {name: file for name, file in found.items() if not name.startswith("../")}
        wanted = {}
        for row in self._table.rows:
            if row.file in found:
                wanted[row.file] = found[row.file]
                continue
            reason = f"found {row.file!r}, of which there is no .npy or .npz file in {folder}"
            self._refuse(BadFile(self._table_place, row.line, reason), report)
        listed = {row.file for row in self._table.rows}
        for name in sorted(found.keys() - listed):
            report.leave_out(shown(name), f"not in {_TABLE}")
        layout = self.builder_config.layout
        items = sorted(wanted.items())
        chunks = [items[i : i + _FILES_OF_A_PART] for i in range(0, len(items), _FILES_OF_A_PART)]
        parse = functools.partial(parse_file, layout, folder)
        # Names of files, and of folders, may be those of another data set.
        return [
            Part(
                f"{layout}-{workers.fingerprint([file.file for _, file in chunk])}",
                tuple((file,) for _, file in chunk),
                parse,
            )
            for chunk in chunks
        ]

    def _records(
        self, clips: Iterable[StoredClip], report: Report
    ) -> Mapping[str, Sequence[Record]]:
        by_name = {clip.name: clip for clip in clips}
        rows = [row for row in self._table.rows if row.file in by_name]
        trained = {row.label for row in rows if row.split == "train"}
        label_of = {name: label for label, name in enumerate(self.LABELS)}
        records: dict[str, list[Record]] = {split: [] for split in SPLITS}
        for row in sorted(rows):
            # Possible where files were skipped.
            if row.label not in trained:
                report.leave_out(row.file, "no sequence of its label is left in the train split")
                continue
            clip = by_name[row.file]
            place = {"subject": row.performer, "camera": 0, "setup": 0}
            fields = {"name": row.file, "label": label_of[row.label], **place}
            records[row.split].append(Record(clip, 0, clip.frames, fields))
        in_both = set.intersection(
            *({row.performer for row in rows if row.split == split} for split in SPLITS)
        )
        if in_both:
            report.notes.append(
                f"in both splits are the performers {', '.join(map(str, sorted(in_both)))}"
            )
        known = [m for clip in by_name.values() if (m := clip.info["mirrored"]) is not None]
        if sum(known) > len(known) / 2:
            report.notes.append(
                f"feet point backwards in {sum(known):,} of {len(known):,} sequences: if left and "
                "right joints are named rightly, the axes are left-handed; negate one of them"
            )
        return records


def _find_table(manual_dir: Path) -> RawFile:
    tables = [f for f in raw_files.find_files(manual_dir, _TABLE) if f.name == _TABLE]
    if len(tables) != 1:
        some = ", ".join(table.file for table in tables[:2]) or "none"
        raise UserError(f"{manual_dir} must hold one {_TABLE}, but has {len(tables)} ({some}).")
    return tables[0]


def parse_file(layout: str, folder: str, file: RawFile) -> Clip:
    """The clip of one array file; raises BadFile."""
    read = read_npy if file.name.endswith(".npy") else read_npz
    try:
        arrays = read(io.BytesIO(file.read()))
        if len(arrays) != 1:
            raise ValueError(f"found {len(arrays)} arrays where that of one sequence was expected")
        (array,) = arrays.values()
        skeleton = read_skeleton(array, LAYOUTS[layout])
        if len(skeleton) < _MIN_FRAMES:
            raise ValueError(f"found one frame where at least {_MIN_FRAMES} were expected")
    except ValueError as error:
        raise BadFile(file.file, None, str(error)) from error
    if skeleton.shape[1] == 2 and not np.any(skeleton[:, 1]):
        skeleton = skeleton[:, :1]
    info = {"mirrored": seems_mirrored(skeleton)}
    return Clip(posixpath.relpath(file.file, folder), skeleton, info)
