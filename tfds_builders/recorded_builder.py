"""Base of the builders that read recordings which the user downloaded."""

import abc
import functools
import json
import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from pcm3_jax.data.normalization import NORMALIZATIONS, apply_around_missing
from pcm3_jax.errors import UserError
from tfds_builders import parts, raw_files, workers
from tfds_builders.parts import Part, StoredClip
from tfds_builders.raw_files import BadFile, RawFile
from tfds_builders.skeleton_builder import (
    SHARD_SIZE,
    Example,
    Shard,
    SkeletonBuilder,
)


class Record(NamedTuple):
    """An example to write: frames `start` to `stop` of a clip, and its other features."""

    clip: StoredClip
    start: int
    stop: int
    fields: dict[str, Any]

    def mark(self) -> list[Any]:
        """Changes when the example does."""
        return [Path(self.clip.poses).name, self.clip.start, self.start, self.stop, self.fields]

    @property
    def labels(self) -> list[int]:
        """Of its action, or of each of its actions."""
        actions = self.fields.get("actions", [self.fields])
        return [action["label"] for action in actions]


@dataclass
class Report:
    """What became of the files of a download, against what a complete one gives.

    Attributes:
        files_seen: raw files that were looked at.
        left_out: reason to names of the files left out for it.
        notes: what is worth knowing and no mistake.
        differences: what else a complete download has.
        expected_splits: examples of each split of a complete download, where that is known.
        expected_classes: the same for each class, all splits together.
        splits: examples of each class, by split.
        examples: examples of each split.
        peak_memory_mb: most that a process used while parsing.
    """

    files_seen: int = 0
    left_out: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    expected_splits: Mapping[str, int] = field(default_factory=dict)
    expected_classes: Mapping[str, int] = field(default_factory=dict)
    splits: dict[str, dict[str, int]] = field(default_factory=dict)
    examples: dict[str, int] = field(default_factory=dict)
    peak_memory_mb: float = 0.0

    def leave_out(self, name: str, reason: str) -> None:
        self.left_out.setdefault(reason, []).append(name)

    def warnings(self) -> list[str]:
        """What a complete download would have, in words."""
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
            some = ", ".join(differing[:5]) + (", …" if len(differing) > 5 else "")
            found.append(f"{len(differing)} classes differ from a complete download: {some}")
        return found

    def text(self) -> str:
        """The lines to print."""
        lines = [f"{self.files_seen:,} files seen"]
        for reason, names in sorted(self.left_out.items()):
            some = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            lines.append(f"  left out {len(names):,}: {reason} ({some})")
        for split, count in self.examples.items():
            expected = self.expected_splits.get(split)
            lines.append(f"  {split} {count:,}" + (f" of {expected:,}" if expected else ""))
        lines += [f"  note: {note}" for note in self.notes]
        lines += [f"  warning: {warning}" for warning in self.warnings()]
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(vars(self) | {"warnings": self.warnings()}, indent=1))


# TFDS has no types, so that its keywords of classes are not known.
class RecordedBuilder(SkeletonBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Base of the builders that read recordings which the user downloaded.

    A subclass groups the raw files into parts and makes records of what was parsed. Parts are
    parsed once for all configs and kept in `staging`.
    """

    NEEDS_MANUAL_DIR = True
    SUFFIX: ClassVar[str | tuple[str, ...]]
    # Given, since it is needed.
    manual_dir: Path

    @property
    def MAX_FRAMES(self) -> int | None:
        # Longer recordings are cut before normalisation, as the public programs do.
        return None

    @property
    def SHARD_SIZE(self) -> int:
        return SHARD_SIZE

    @abc.abstractmethod
    def _parts(self, files: Sequence[RawFile], report: Report) -> list[Part]:
        """The files that this config needs, in parts; notes in the report what is left out."""

    @abc.abstractmethod
    def _records(
        self, clips: Iterable[StoredClip], report: Report
    ) -> Mapping[str, Sequence[Record]]:
        """The examples of each split, and in the report the numbers of a complete download."""

    def _refuse(self, flaw: BadFile, report: Report) -> None:
        """Raises the flaw, or reports it where bad files are skipped."""
        if not self.skip_bad_files:
            raise flaw
        line = "" if flaw.line is None else f"line {flaw.line}: "
        report.leave_out(flaw.file, line + flaw.reason)

    def _long_enough(self, records: Sequence[Record], report: Report) -> list[Record]:
        """Without those of a single frame, which no task can use and so are flaws."""
        kept = []
        for record in records:
            if record.stop - record.start >= 2:
                kept.append(record)
            else:
                name = record.fields["name"]
                self._refuse(BadFile(name, None, "a sequence needs at least 2 frames"), report)
        return kept

    def _by_name(self, files: Iterable[RawFile], report: Report) -> dict[str, RawFile]:
        """Files by their names, sorted; of two with one name the second is a flaw."""
        found: dict[str, RawFile] = {}
        for file in files:
            if file.name in found:
                folder = posixpath.dirname(found[file.name].file)
                flaw = BadFile(file.file, None, f"another file has its name, in {folder}")
                self._refuse(flaw, report)
            else:
                found[file.name] = file
        return dict(sorted(found.items()))

    def _shards(self) -> Mapping[str, Sequence[Shard]]:
        files = raw_files.find_files(self.manual_dir, self.SUFFIX)
        report = Report(files_seen=len(files))
        parsed = parts.parse_all(
            self._parts(files, report),
            self.staging / "parsed",
            str(self.version),
            self.processes,
            stop_at_flaw=not self.skip_bad_files,
        )
        for flaw in parsed.flaws:
            self._refuse(flaw, report)
        report.peak_memory_mb = parsed.peak_memory_mb
        clips = sorted(parsed.clips, key=lambda clip: clip.name)
        records = {
            split: self._long_enough(chosen, report)
            for split, chosen in self._records(clips, report).items()
        }
        for split, chosen in records.items():
            if not chosen:
                raise UserError(
                    f"{self.manual_dir} has no recording of the {split} split of "
                    f"{self.name}/{self.builder_config.name}; give the whole data set."
                )
            labels = Counter(label for record in chosen for label in record.labels)
            report.splits[split] = {name: labels[i] for i, name in enumerate(self.LABELS)}
            report.examples[split] = len(chosen)
        report.write(Path(self.data_dir) / "report.json")
        self.report = report
        return {split: self._split_shards(split, chosen) for split, chosen in records.items()}

    def _split_shards(self, split: str, records: Sequence[Record]) -> list[Shard]:
        order = np.random.default_rng(0).permutation(len(records))
        coordinates = self.builder_config.coordinates
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
    for record in records:
        skeleton = record.clip.load(record.start, record.stop)
        fields = record.fields | {"num_frames": len(skeleton)}
        try:
            skeleton = _normalized(skeleton[:max_frames], NORMALIZATIONS[coordinates])
        except ValueError as error:
            name = record.fields["name"]
            raise UserError(f"{name}: {error}; remove or repair this recording.") from error
        yield record.fields["name"], fields | {"skeleton": skeleton}


def _normalized(
    skeleton: np.ndarray, normalization: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    missing = np.isnan(skeleton).any(axis=-1)
    if not missing.any():
        return normalization(skeleton)
    return apply_around_missing(normalization, np.nan_to_num(skeleton), ~missing)[0]
