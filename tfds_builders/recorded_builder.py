"""Base class of the builders that read downloaded recordings."""

import abc
import functools
import json
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from pcm3_jax.data.built import REPORT_FILE
from pcm3_jax.data.formats import raw_files
from pcm3_jax.data.formats.raw_files import BadFile, Found, RawFile
from pcm3_jax.data.normalization import NORMALIZATIONS, apply_around_missing
from pcm3_jax.errors import UserError
from tfds_builders import file_groups, inputs, workers
from tfds_builders.file_groups import FileGroup, StoredClip
from tfds_builders.inputs import Inputs, listed
from tfds_builders.skeleton_builder import SHARD_SIZE, Example, Shard, SkeletonBuilder

# Raise it when a builder keeps something else of a parsed recording in `Clip.info`.
_PARSED_FORM = 3


class Record(NamedTuple):
    """An example to write: frames `start` to `stop` of a clip, and its other features."""

    clip: StoredClip
    start: int
    stop: int
    fields: dict[str, Any]

    def mark(self) -> list[Any]:
        """The example's content, for `workers.fingerprint`."""
        return [Path(self.clip.poses).name, self.clip.start, self.start, self.stop, self.fields]

    @property
    def labels(self) -> list[int]:
        """The label of its action, or of each of its actions."""
        actions = self.fields.get("actions", [self.fields])
        return [action["label"] for action in actions]


@dataclass
class Report:
    """Files used and left out, and differences from a complete download.

    Attributes:
        files_seen: number of raw files found.
        stray: files ignored, since they are no data (`raw_files.search`).
        left_out: {reason: names of the files, or of parts of them, left out}.
        noted: {remark: names of the recordings, or of parts of files, that it is about}.
        notes: other remarks that are not warnings.
        differences: further differences from a complete download.
        expected_splits: examples per split of a complete download, if known.
        expected_classes: examples per class, over all splits, of a complete download.
        splits: examples per class, by split.
        examples: examples per split.
        peak_memory_mb: peak memory of a parsing process.
    """

    files_seen: int = 0
    stray: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    noted: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    expected_splits: Mapping[str, int] = field(default_factory=dict)
    expected_classes: Mapping[str, int] = field(default_factory=dict)
    splits: dict[str, dict[str, int]] = field(default_factory=dict)
    examples: dict[str, int] = field(default_factory=dict)
    peak_memory_mb: float = 0.0

    def leave_out(self, name: str, reason: str) -> None:
        self.left_out.setdefault(reason, []).append(name)

    def note(self, name: str, remark: str) -> None:
        self.noted.setdefault(remark, []).append(name)

    def warnings(self) -> list[str]:
        """The differences from a complete download, in words."""
        found = self.differences + [
            f"the {split} split has {self.examples[split]:,} examples; a complete download gives "
            f"{expected:,}"
            for split, expected in self.expected_splits.items()
            if self.examples[split] != expected
        ]
        classes = sum((Counter(split) for split in self.splits.values()), Counter())
        differing = [
            f"{name} {classes[name]:,} of {expected:,}"
            for name, expected in self.expected_classes.items()
            if classes[name] != expected
        ]
        if differing:
            some = listed(differing, 5)
            found.append(f"{len(differing)} classes differ from a complete download: {some}")
        return found

    def text(self) -> str:
        """The lines to print."""
        lines = [f"{self.files_seen:,} files seen"]
        if self.stray:
            names = [Path(file).name for file in self.stray]
            lines.append(f"  ignored {len(names):,}: stray files, no data ({listed(names)})")
        for reason, names in sorted(self.left_out.items()):
            lines.append(f"  left out {len(names):,}: {reason} ({listed(names)})")
        for split, count in self.examples.items():
            expected = self.expected_splits.get(split)
            lines.append(f"  {split} {count:,}" + (f" of {expected:,}" if expected else ""))
        for remark, names in sorted(self.noted.items()):
            lines.append(f"  note: {len(names):,} {remark} ({listed(names)})")
        lines += [f"  note: {note}" for note in self.notes]
        lines += [f"  warning: {warning}" for warning in self.warnings()]
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """Writes the report as JSON."""
        path.write_text(json.dumps(vars(self) | {"warnings": self.warnings()}, indent=1))


SECOND_ONLY = (
    "examples of the second person only, who stays second and is not centred, as in the public "
    "preprocessing"
)


def second_only(skeleton: np.ndarray) -> bool:
    """Whether only the second person of (T, M, 25, 3) was tracked, the first in no frame."""
    return bool(not skeleton[:, 0].any() and skeleton[:, 1:].any())


# mypy does not know the class keywords of TFDS, which has no type annotations.
class RecordedBuilder(SkeletonBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Base class of the builders that read downloaded recordings.

    A subclass groups the raw files and makes records from the parsed clips. Groups are parsed once
    for all configs and kept in `staging`.
    """

    NEEDS_MANUAL_DIR = True
    SUFFIX: ClassVar[str | tuple[str, ...]]  # in lower case; files may have it in any
    # Bytes at the start of each raw file by which `changes` recognises it; -1 for all.
    COMPARED_BYTES: ClassVar[int] = 1 << 14
    # What to do in order to build another data set beside this one.
    BESIDE: ClassVar[str] = "give another --data_dir"
    manual_dir: Path  # never None here
    report: Report
    tables: list[RawFile]  # files beside the recordings that decide what the data set holds

    @property
    def MAX_FRAMES(self) -> int | None:
        # Longer recordings are cut before normalisation, as in the public programs.
        return None

    @property
    def SHARD_SIZE(self) -> int:
        return SHARD_SIZE

    @property
    def NORMALIZATION(self) -> str:
        """The one of `NORMALIZATIONS` that makes the config's skeletons from the files'."""
        return self.builder_config.coordinates

    def _find_files(self) -> Found:
        """The files that this config may need. Raises UserError if there are none."""
        return raw_files.search(self.manual_dir, self.SUFFIX)

    @abc.abstractmethod
    def _file_groups(self, files: Sequence[RawFile]) -> list[FileGroup]:
        """Groups the files that this config needs; adds the others to the report.

        Sets `tables` if there are any.
        """

    @abc.abstractmethod
    def _records(self, clips: Iterable[StoredClip]) -> Iterator[tuple[str, Record]]:
        """Yields ("train" or "test", record); sets the report's expected counts."""

    def _input_name(self, file: RawFile) -> str:
        """Identifies a raw file wherever it is, and whether or not it is in an archive."""
        return file.name

    def _find_groups(self) -> tuple[list[FileGroup], Inputs]:
        """Finds the raw files and groups those of this config; begins the report."""
        found = self._find_files()
        self.report, self.tables = Report(files_seen=len(found.files), stray=found.stray), []
        for flaw in found.flaws:
            self._refuse(flaw)
        groups = self._file_groups(found.files)
        sources = (one for group in groups for recording in group.recordings for one in recording)
        used = [source for source in sources if isinstance(source, RawFile)]
        named = ((self._input_name(file), file) for file in (*self.tables, *used))
        return groups, inputs.take(named, self.COMPARED_BYTES)

    def changes(self) -> str | None:
        """How `manual_dir` differs from what the data set was built from; see `inputs.difference`.

        None if that is not known, since an older version of this program built the data set.

        Raises:
            UserError: `manual_dir` holds no such data.
        """
        built_from = inputs.read(Path(self.data_path))
        if built_from is None:
            return None
        self.skip_bad_files = True  # only a build must end at a file that cannot be used
        return inputs.difference(built_from, self._find_groups()[1])

    def _refuse(self, flaw: BadFile) -> None:
        """Raises `flaw`, or adds its file to the report if bad files are skipped."""
        if not self.skip_bad_files:
            raise flaw
        line = "" if flaw.line is None else f"line {flaw.line}: "
        self.report.leave_out(flaw.file, line + flaw.reason)

    def _by_name(self, files: Iterable[RawFile]) -> dict[str, RawFile]:
        """Files by name, sorted; refuses further files of the same name."""
        found: dict[str, RawFile] = {}
        for file in files:
            if file.name in found:
                folder = posixpath.dirname(found[file.name].file)
                self._refuse(
                    BadFile(file.file, None, f"another file in {folder} has the same name")
                )
            else:
                found[file.name] = file
        return dict(sorted(found.items()))

    def _shards(self) -> Mapping[str, Sequence[Shard]]:
        groups, built_from = self._find_groups()
        report, folder = self.report, self.staging / "parsed"
        clips: list[StoredClip] = []
        version = f"{self.version}.{_PARSED_FORM}"
        for group in file_groups.parse_all(groups, folder, version, self.processes):
            for flaw in group.flaws:
                self._refuse(flaw)
            clips += group.clips
            report.peak_memory_mb = max(report.peak_memory_mb, group.peak_memory_mb)
        records: dict[str, list[Record]] = {"train": [], "test": []}
        for split, record in self._records(sorted(clips, key=lambda clip: clip.name)):
            if record.stop - record.start > 1:
                records[split].append(record)
            else:  # no task can use it
                reason = "a sequence needs at least 2 frames"
                self._refuse(BadFile(record.fields["name"], None, reason))
        for split, chosen in records.items():
            if not chosen:
                raise UserError(
                    f"{self.manual_dir} has no recording of the {split} split of "
                    f"{self.name}/{self.builder_config.name}; give the whole data set."
                )
            labels = Counter(label for record in chosen for label in record.labels)
            report.splits[split] = {name: labels[i] for i, name in enumerate(self.LABELS)}
            report.examples[split] = len(chosen)
        report.write(Path(self.data_dir) / REPORT_FILE)
        inputs.write(built_from, Path(self.data_dir))
        return {split: self._split_shards(split, chosen) for split, chosen in records.items()}

    def _split_shards(self, split: str, records: Sequence[Record]) -> list[Shard]:
        order = np.random.default_rng(0).permutation(len(records))
        coordinates = self.NORMALIZATION
        shards = []
        for some in np.array_split(order, -(-len(order) // self.SHARD_SIZE)):
            chosen = [records[i] for i in some]
            mark = workers.fingerprint(
                self.name, split, str(self.version), coordinates, [r.mark() for r in chosen]
            )
            examples = functools.partial(_examples, chosen, coordinates, self.MAX_FRAMES)
            shards.append(Shard(examples, len(chosen), mark))
        return shards


def _examples(
    records: Sequence[Record], coordinates: str, max_frames: int | None
) -> Iterator[tuple[str, Example]]:
    normalization = NORMALIZATIONS[coordinates]
    for record in records:
        skeleton = record.clip.load(record.start, record.stop)
        fields = record.fields | {"num_frames": len(skeleton)}
        used = skeleton[:max_frames]
        visible = ~np.isnan(used).any(axis=-1)
        try:
            poses, _ = apply_around_missing(normalization, np.nan_to_num(used), visible)
        except ValueError as error:
            name = record.fields["name"]
            raise UserError(f"{name}: {error}; remove or repair this recording.") from error
        yield record.fields["name"], fields | {"skeleton": poses}
