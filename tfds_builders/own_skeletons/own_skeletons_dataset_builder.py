"""Builder of `own_skeletons` from array files and a table of labels."""

import dataclasses
import functools
import io
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from pcm3_jax.data import plausibility
from pcm3_jax.data.formats import raw_files
from pcm3_jax.data.formats.arrays import read_arrays, read_skeleton
from pcm3_jax.data.formats.labels_csv import SPLITS, Table, read_labels
from pcm3_jax.data.formats.raw_files import BadFile, RawFile
from pcm3_jax.data.joint_layouts import LAYOUTS, Layout, parse_layout
from pcm3_jax.data.normalization import NORMALIZATIONS
from pcm3_jax.data.plausibility import Measures
from pcm3_jax.errors import UserError
from pcm3_jax.runtime.files import shown
from tfds_builders import workers
from tfds_builders.file_groups import Clip, FileGroup, StoredClip
from tfds_builders.recorded_builder import Record, RecordedBuilder
from tfds_builders.skeleton_builder import SkeletonConfig

_TABLE = "labels.csv"
# The joint layout of the config "custom".
_LAYOUT = "layout.toml"
_CUSTOM = "custom"
# The config of one of several data sets of a layout, such as kinect_v2_25@gym.
_NAMED = re.compile(r"(\w+)@[\w-]+", re.ASCII)
_EXAMPLE = f"{next(iter(LAYOUTS))}@gym"
_FILES_OF_A_GROUP = 256


@dataclasses.dataclass(eq=False, kw_only=True)
class LayoutConfig(SkeletonConfig):
    """`layout` is the name of the joint layout of the files, "custom" if layout.toml has it."""

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
    ] + [
        LayoutConfig(
            name=_CUSTOM, layout=_CUSTOM, description=f"Files of the joints that {_LAYOUT} lists."
        )
    ]
    SUFFIX = (".npy", ".npz", _TABLE, _LAYOUT)
    # Corrected arrays often have the size, and even the start, of those that they replace.
    COMPARED_BYTES = -1
    BESIDE = f"put @ and a name after the layout, as in own_skeletons/{_EXAMPLE},"

    def __init__(self, *, manual_dir: Path | None = None, **kwargs: Any):
        self._table_file = RawFile(_TABLE, "0:")
        self._table = Table([], [])
        # TFDS reads `LABELS` on construction. `manual_dir` may be missing if the data set is built
        # already; otherwise the build command raises an error.
        if manual_dir is not None and manual_dir.exists():
            self._table_file = _find_table(manual_dir)
            with raw_files.needed():
                self._table = read_labels(self._table_file.read(), self._table_file.file)
        super().__init__(manual_dir=manual_dir, **kwargs)

    @classmethod
    def config_named(cls, name: str | None) -> tfds.core.BuilderConfig:
        """Also makes configs `LAYOUT@NAME`. Raises UserError for other names."""
        named = _NAMED.fullmatch(name or "")
        # In LAYOUT@NAME_recorded, "_recorded" is not part of the name.
        if named and named[0].rpartition("_")[2] not in NORMALIZATIONS:
            for config in cls.BUILDER_CONFIGS:
                if config.name == named[1]:
                    made = dataclasses.replace(config, **{"name": named[0]})
                    # Registered, since TFDS logs a warning for any other config.
                    return cls.builder_configs.setdefault(named[0], made)
        try:
            return super().config_named(name)
        except UserError as error:
            example = f"with a name of letters, digits, _ and -, such as {_EXAMPLE}"
            raise UserError(f"{str(error).removesuffix('.')}, or one of these {example}.") from None

    @property
    def LABELS(self) -> Sequence[str]:
        return sorted({row.label for row in self._table.rows})

    def _file_groups(self, files: Sequence[RawFile]) -> list[FileGroup]:
        for flaw in self._table.flaws:
            self._refuse(flaw)
        table = self._table_file
        folder = posixpath.dirname(table.file)
        self.tables = [table]
        arrays = [file for file in files if not (_is_table(file) or file.name == _LAYOUT)]
        found = {posixpath.relpath(file.file, folder): file for file in arrays}
        # If an archive has several folders, only files below the table's folder are used.
        found = {name: file for name, file in found.items() if not name.startswith("../")}
        wanted = {}
        for row in self._table.rows:
            if row.file in found:
                wanted[row.file] = found[row.file]
                continue
            reason = f"found {row.file!r}, but {folder} has no such .npy or .npz file"
            self._refuse(BadFile(table.file, row.line, reason))
        listed = {row.file for row in self._table.rows}
        for name in sorted(found.keys() - listed):
            self.report.leave_out(shown(name), f"not in {_TABLE}")
        layout = self._joint_layout(files)
        items = sorted(wanted.items())
        chunks = [items[i : i + _FILES_OF_A_GROUP] for i in range(0, len(items), _FILES_OF_A_GROUP)]
        parse = functools.partial(parse_file, layout, folder)
        # The fingerprint keeps the groups of two data sets of the same layout apart, and those of
        # a layout.toml that has changed since.
        return [
            FileGroup(
                f"{self.builder_config.layout}-"
                f"{workers.fingerprint(layout, [file.file for _, file in chunk])}",
                tuple((file,) for _, file in chunk),
                parse,
            )
            for chunk in chunks
        ]

    def _joint_layout(self, files: Sequence[RawFile]) -> Layout:
        if self.builder_config.layout != _CUSTOM:
            return LAYOUTS[self.builder_config.layout]
        folder = posixpath.dirname(self._table_file.file)
        for file in files:
            if file.file == posixpath.join(folder, _LAYOUT):
                self.tables.append(file)
                return parse_layout(file.read(), file.file)
        raise UserError(
            f"{folder} has no {_LAYOUT} beside {_TABLE}: add one, as docs/own_data.md describes, "
            f"or name one of the configs {', '.join(LAYOUTS)}."
        )

    def _input_name(self, file: RawFile) -> str:
        return posixpath.relpath(file.file, posixpath.dirname(self._table_file.file))

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
        measured = [Measures(**clip.info) for clip in by_name.values()]
        self.report.notes += plausibility.shared_notes(measured)


def _find_table(manual_dir: Path) -> RawFile:
    tables = [file for file in raw_files.find_files(manual_dir, _TABLE) if _is_table(file)]
    if len(tables) != 1:
        some = ", ".join(table.file for table in tables[:2]) or "none"
        raise UserError(f"{manual_dir} must hold one {_TABLE}, but has {len(tables)} ({some}).")
    return tables[0]


def _is_table(file: RawFile) -> bool:
    return file.name.lower() == _TABLE


def parse_file(layout: Layout, folder: str, file: RawFile) -> Clip:
    """The clip of one array file; raises BadFile."""
    try:
        arrays = read_arrays(io.BytesIO(file.read()))
        if len(arrays) != 1:
            raise ValueError(f"found {len(arrays)} arrays where one sequence was expected")
        (array,) = arrays.values()
        skeleton = read_skeleton(array, layout)
        if len(skeleton) < 2:
            raise ValueError("found one frame where at least 2 were expected")
    except ValueError as error:
        raise BadFile(file.file, None, str(error)) from error
    name = posixpath.relpath(file.file, folder)
    return Clip(name, skeleton, plausibility.measure(skeleton)._asdict())
