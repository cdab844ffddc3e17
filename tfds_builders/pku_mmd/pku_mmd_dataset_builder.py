"""Builder of `pku_mmd` from the text files of its authors."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from pcm3_jax.data.formats import raw_files
from pcm3_jax.data.formats.pku_mmd import Remark, parse_labels, parse_split, parse_video
from pcm3_jax.data.formats.raw_files import BadFile, RawFile
from pcm3_jax.errors import UserError
from tfds_builders.file_groups import Clip, FileGroup, StoredClip
from tfds_builders.recorded_builder import SECOND_ONLY, Record, RecordedBuilder, second_only
from tfds_builders.skeleton_builder import (
    SHARD_SIZE,
    SkeletonConfig,
    trimmed_features,
    untrimmed_features,
)

ACTIONS = tuple((Path(__file__).parent / "actions.txt").read_text().splitlines())
# Names of the videos of each part; the last letter is the camera.
_NAMES = {
    1: re.compile(r"\d{4}-[LMR]", re.ASCII),
    2: re.compile(r"A\d{2}N\d{2}-[LMR]", re.ASCII),
}
_CAMERAS = "LMR"
_SHORT = {"subject": "xsub", "view": "xview"}
_COMPLETE_PART_1 = {"videos": 1076, "actions": 21545}  # published by the authors
_MAX_FRAMES = 300  # per action, as in the public program
_HEAD = 200  # bytes; enough to recognise the kind of a text file
# A row of labels has 3 commas. In the head of a frame there are more, or none.
_MOST_COMMAS_OF_LABELS = 6


class Action(NamedTuple):
    """One action of a video: frames [`start`, `stop`), 0-based `row` of its labels.

    `second_only`: whether the first person is in none of the frames, and the second is.
    """

    label: int
    start: int
    stop: int
    row: int
    second_only: bool


@dataclasses.dataclass(eq=False, kw_only=True)
class Protocol(SkeletonConfig):
    """The videos of a benchmark and their split.

    Attributes:
        part: 1 or 2.
        split_by: "subject" or "view", in the name of the split file.
        trimmed: whether an example is one action or a whole video with its actions.
    """

    part: int
    split_by: str
    trimmed: bool


def _protocol(part: int, split_by: str, *, trimmed: bool) -> Protocol:
    name = f"part{part}_{_SHORT[split_by]}"
    return Protocol(
        name=name if trimmed else f"{name}_untrimmed",
        description=f"{'Actions' if trimmed else 'Whole videos'} of part {part}, cross-{split_by}.",
        part=part,
        split_by=split_by,
        trimmed=trimmed,
        # Untrimmed videos are for detection; the public detection program does not normalise.
        coordinates="normalized" if trimmed else "recorded",
    )


class Builder(RecordedBuilder):
    """PKU-MMD I and II, trimmed actions or whole videos."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Ask the authors (https://www.icst.pku.edu.cn/struct/Projects/PKUMMD.html) for the "
        "skeletons, the labels and the splits (cross-subject, cross-view) of the part; manual_dir "
        "holds the text files unpacked from their archives (.7z), at any depth."
    )
    BUILDER_CONFIGS = [
        _protocol(part, split_by, trimmed=trimmed)
        for part, trimmed in ((1, True), (2, True), (1, False))
        for split_by in _SHORT
    ]
    LABELS = ACTIONS
    HOMEPAGE = "https://www.icst.pku.edu.cn/struct/Projects/PKUMMD.html"
    SUFFIX = ".txt"

    @property
    def MAX_FRAMES(self) -> int | None:
        return _MAX_FRAMES if self.builder_config.trimmed else None

    @property
    def SHARD_SIZE(self) -> int:
        # Whole videos are some megabytes each.
        return SHARD_SIZE if self.builder_config.trimmed else SHARD_SIZE // 16

    def _features(self) -> dict[str, Any]:
        features = trimmed_features if self.builder_config.trimmed else untrimmed_features
        return features(self.LABELS)

    def _file_groups(self, files: Sequence[RawFile]) -> list[FileGroup]:
        kinds: dict[str, list[RawFile]] = {"split": [], "labels": [], "video": []}
        for file in files:
            try:
                kinds[_kind(file)].append(file)
            except BadFile as flaw:
                self._refuse(flaw)
        split_file, self._split = self._read_split(kinds["split"])
        self.tables = [split_file]
        videos = self._by_name(self._of_part(kinds["video"]))
        labels = self._labels = self._by_name(self._of_part(kinds["labels"]))
        listed = {f"{name}{self.SUFFIX}" for names in self._split.values() for name in names}
        for name in sorted(listed - videos.keys()):
            missing = f"lists {Path(name).stem}, but there is no skeleton file {name}"
            self._refuse(BadFile(split_file.file, None, missing))
        for name in sorted(labels.keys() - videos.keys()):
            self._refuse(BadFile(labels[name].file, None, "there is no video for these labels"))
        groups = []
        for name, video in videos.items():
            if name not in listed:
                self.report.leave_out(name, f"not in {split_file.name}")
            elif name not in labels:
                self._refuse(BadFile(video.file, None, "there is no label file for this video"))
            else:
                groups.append(FileGroup(Path(name).stem, ((video, labels[name]),), parse_files))
        return groups

    def _read_split(self, files: Sequence[RawFile]) -> tuple[RawFile, dict[str, list[str]]]:
        """This protocol's split file and its parsed content."""
        protocol = self.builder_config
        for file in files:
            if protocol.split_by in file.name.lower():
                with raw_files.needed():
                    split = parse_split(file.read(), file.file)
                if all(_NAMES[protocol.part].fullmatch(name) for name in split["train"]):
                    return file, split
        raise UserError(
            f"{self.manual_dir} holds no split file cross-{protocol.split_by}{self.SUFFIX} of "
            f"part {protocol.part}; add the authors' file."
        )

    def _of_part(self, files: Iterable[RawFile]) -> list[RawFile]:
        """The files of this part."""
        chosen = []
        own_part = self.builder_config.part
        for file in files:
            name = Path(file.name).stem
            if _NAMES[own_part].fullmatch(name):
                chosen.append(file)
            elif any(form.fullmatch(name) for form in _NAMES.values()):
                self.report.leave_out(file.name, f"not of part {own_part}")
            else:
                reason = (
                    "the name is neither that of part I (0002-L.txt) nor of part II (A01N01-L.txt)"
                )
                self._refuse(BadFile(file.file, None, reason))
        return chosen

    def _records(self, clips: Iterable[StoredClip]) -> Iterator[tuple[str, Record]]:
        split_of = {name: split for split, names in self._split.items() for name in names}
        found = Counter[str]()
        for clip in clips:
            self._report_labels(clip)
            actions = [Action(*values) for values in clip.info["actions"]]
            if not actions:
                self.report.leave_out(clip.name, "videos without a usable row of labels")
                continue
            found.update({"videos": 1, "actions": len(actions)})
            for record, alone in self._records_of_video(clip, actions):
                yield split_of[clip.name], record
                if alone:
                    self.report.note(record.fields["name"], SECOND_ONLY)
        self.report.differences += [
            f"there are {found[what]:,} {what}; a complete part I has {complete:,}"
            for what, complete in _COMPLETE_PART_1.items()
            if self.builder_config.part == 1 and found[what] != complete
        ]

    def _report_labels(self, clip: StoredClip) -> None:
        """Adds the rows of a video's labels that were left out or mended to the report."""
        file = f"{clip.name}{self.SUFFIX}"
        for line, reason in clip.info["flaws"]:
            self._refuse(BadFile(self._labels[file].file, line, reason))
        for line, reason, found in clip.info["left_out"]:
            self.report.leave_out(f"{file}, line {line}: {found}", reason)
        for line, what, found in clip.info["mended"]:
            self.report.note(f"{file}, line {line}: {found}", what)

    def _records_of_video(
        self, clip: StoredClip, actions: Sequence[Action]
    ) -> Iterator[tuple[Record, bool]]:
        """The examples of a video, each with whether only the second person is there."""
        # The files do not name the subject.
        place = {"subject": 0, "camera": 1 + _CAMERAS.index(clip.name[-1]), "setup": 0}
        if not self.builder_config.trimmed:
            told = [{"label": a.label, "start": a.start, "stop": a.stop} for a in actions]
            fields = {"name": clip.name, "actions": told, **place}
            yield Record(clip, 0, clip.frames, fields), clip.info["second_only"]
            return
        for action in actions:
            name = f"{clip.name}_{action.row}"
            if action.stop - action.start < 2:
                self.report.leave_out(name, "actions of fewer than 2 frames")
                continue
            fields = {"name": name, "label": action.label, **place}
            yield Record(clip, action.start, action.stop, fields), action.second_only


def _kind(file: RawFile) -> str:
    """Whether a text file is a "split", the "labels" of a video, or a "video"."""
    head = file.read(_HEAD).strip()
    if not head:
        raise BadFile(file.file, None, "the file is empty")
    first_line = head.splitlines()[0]
    if b"videos:" in first_line:
        return "split"
    return "labels" if 0 < first_line.count(b",") <= _MOST_COMMAS_OF_LABELS else "video"


def parse_files(video: RawFile, labels: RawFile) -> Clip:
    """A video and its actions; raises BadFile."""
    skeleton = parse_video(video.read(), video.file)
    parsed = parse_labels(labels.read(), labels.file, len(skeleton))
    actions = []
    for label, start, stop, _, row in parsed.intervals:
        used = skeleton[start : min(stop, start + _MAX_FRAMES)]
        if used.any():
            actions.append(Action(label, start, stop, row, second_only(used)))
        else:
            what, found = "label rows without a body in their frames", f"frames {start} to {stop}"
            parsed.left_out.append(Remark(row + 1, what, found))
    info = {
        "actions": actions,
        "second_only": second_only(skeleton),
        "flaws": [(flaw.line, flaw.reason) for flaw in parsed.flaws],
        "left_out": parsed.left_out,
        "mended": parsed.mended,
    }
    return Clip(Path(video.name).stem, skeleton, info)
