"""Builder of `pku_mmd` from the text files of its authors."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from pcm3_jax.errors import UserError
from tfds_builders.parts import Clip, Part, StoredClip
from tfds_builders.pku_mmd.text_files import parse_labels, parse_split, parse_video
from tfds_builders.raw_files import BadFile, RawFile
from tfds_builders.recorded_builder import Record, RecordedBuilder, Report
from tfds_builders.skeleton_builder import (
    SHARD_SIZE,
    SkeletonConfig,
    trimmed_features,
    untrimmed_features,
)

ACTIONS = tuple((Path(__file__).parent / "actions.txt").read_text().splitlines())
# How the videos of each part are named; the last letter is the camera.
_NAMES = {1: re.compile(r"\d{4}-[LMR]"), 2: re.compile(r"A\d{2}N\d{2}-[LMR]")}
_CAMERAS = "LMR"
# What the authors publish of a complete part I.
_VIDEOS_OF_PART_1, _ACTIONS_OF_PART_1 = 1076, 21545
_MAX_FRAMES = 300  # of an action, as the public program
_HEAD = 200  # bytes that tell what a text file is


@dataclasses.dataclass(eq=False, kw_only=True)
class Protocol(SkeletonConfig):
    """Which videos there are and how they are split.

    Attributes:
        part: 1 or 2.
        split_by: "subject" or "view", in the name of the split file.
        trimmed: whether an example is one action or a whole video with its actions.
    """

    part: int
    split_by: str
    trimmed: bool


def _protocols() -> list[Protocol]:
    protocols = [
        Protocol(
            name=f"part{part}_{short}",
            description=f"Actions of part {part}, cross-{split_by}.",
            part=part,
            split_by=split_by,
            trimmed=True,
        )
        for part in (1, 2)
        for split_by, short in (("subject", "xsub"), ("view", "xview"))
    ]
    # For detection, whose public program takes coordinates as they are.
    untrimmed = [
        # TFDS has no types, so that its configs' fields are not known.
        dataclasses.replace(  # type: ignore[call-arg]
            protocol,
            name=f"{protocol.name}_untrimmed",
            description=f"Whole videos of part 1, cross-{protocol.split_by}.",
            trimmed=False,
            coordinates="recorded",
        )
        for protocol in protocols
        if protocol.part == 1
    ]
    return protocols + untrimmed


class Builder(RecordedBuilder):
    """PKU-MMD I and II, trimmed actions or whole videos."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Ask the authors (https://www.icst.pku.edu.cn/struct/Projects/PKUMMD.html) for the "
        "skeletons, the labels and the splits (cross-subject, cross-view) of the part; manual_dir "
        "holds the text files unpacked from their archives (.7z), at any depth."
    )
    BUILDER_CONFIGS = _protocols()
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

    def _features(self):
        features = trimmed_features if self.builder_config.trimmed else untrimmed_features
        return features(self.LABELS)

    def _parts(self, files: Sequence[RawFile], report: Report) -> list[Part]:
        kinds: dict[str, list[RawFile]] = {"split": [], "labels": [], "video": []}
        for file in files:
            try:
                kinds[_kind(file)].append(file)
            except BadFile as flaw:
                self._refuse(flaw, report)
        split_file, self._split = self._read_split(kinds["split"])
        videos = self._by_name(self._of_part(kinds["video"], report), report)
        labels = self._by_name(self._of_part(kinds["labels"], report), report)
        listed = {f"{name}{self.SUFFIX}" for names in self._split.values() for name in names}
        for name in sorted(listed - videos.keys()):
            missing = f"lists {Path(name).stem}, of which there is no skeleton file {name}"
            self._refuse(BadFile(split_file.file, None, missing), report)
        for name in sorted(labels.keys() - videos.keys()):
            self._refuse(
                BadFile(labels[name].file, None, "there is no video of these labels"), report
            )
        parts = []
        for name, video in videos.items():
            if name not in listed:
                report.leave_out(name, f"not in {split_file.name}")
            elif name not in labels:
                self._refuse(
                    BadFile(video.file, None, "there is no label file of this video"), report
                )
            else:
                parts.append(Part(Path(name).stem, ((video, labels[name]),), parse_files))
        return parts

    def _read_split(self, files: Sequence[RawFile]) -> tuple[RawFile, dict[str, list[str]]]:
        """The file of this protocol's split and what it says."""
        protocol = self.builder_config
        for file in files:
            if protocol.split_by in file.name:
                split = parse_split(file.read(), file.file)
                if all(_NAMES[protocol.part].fullmatch(name) for name in split["train"]):
                    return file, split
        raise UserError(
            f"{self.manual_dir} holds no split file cross-{protocol.split_by}{self.SUFFIX} of "
            f"part {protocol.part}; put the authors' there."
        )

    def _of_part(self, files: Iterable[RawFile], report: Report) -> list[RawFile]:
        """The files of this part."""
        chosen = []
        for file in files:
            part = next(
                (p for p, form in _NAMES.items() if form.fullmatch(Path(file.name).stem)), 0
            )
            if part == self.builder_config.part:
                chosen.append(file)
            elif part:
                report.leave_out(file.name, f"not of part {self.builder_config.part}")
            else:
                flaw = "the name is neither of part I (0002-L.txt) nor of part II (A01N01-L.txt)"
                self._refuse(BadFile(file.file, None, flaw), report)
        return chosen

    def _records(
        self, clips: Iterable[StoredClip], report: Report
    ) -> Mapping[str, Sequence[Record]]:
        split_of = {name: split for split, names in self._split.items() for name in names}
        records: dict[str, list[Record]] = {split: [] for split in self._split}
        videos = actions = 0
        for clip in clips:
            videos += 1
            actions += len(clip.info["actions"])
            records[split_of[clip.name]] += self._records_of_video(clip)
        if self.builder_config.part == 1:
            for count, complete, what in (
                (videos, _VIDEOS_OF_PART_1, "videos"),
                (actions, _ACTIONS_OF_PART_1, "actions"),
            ):
                if count != complete:
                    report.differences.append(
                        f"there are {count:,} {what}; a complete part I has {complete:,}"
                    )
        return records

    def _records_of_video(self, clip: StoredClip) -> list[Record]:
        # The files do not say who performs.
        place = {"subject": 0, "camera": 1 + _CAMERAS.index(clip.name[-1]), "setup": 0}
        actions = [
            dict(zip(("label", "start", "stop"), a, strict=True)) for a in clip.info["actions"]
        ]
        if not self.builder_config.trimmed:
            fields = {"name": clip.name, "actions": actions, **place}
            return [Record(clip, 0, clip.frames, fields)]
        return [
            Record(
                clip,
                action["start"],
                action["stop"],
                {"name": f"{clip.name}_{row}", "label": action["label"], **place},
            )
            for row, action in enumerate(actions)
        ]


def _kind(file: RawFile) -> str:
    """Whether a text file is a "split", the "labels" of a video, or a "video"."""
    head = file.read_head(_HEAD).strip()
    if not head:
        raise BadFile(file.file, None, "the file is empty")
    first_line = head.splitlines()[0]
    if b"videos:" in first_line:
        return "split"
    return "labels" if b"," in first_line else "video"


def parse_files(video: RawFile, labels: RawFile) -> Clip:
    """A video and its actions; raises BadFile."""
    skeleton = parse_video(video.read(), video.file)
    actions = parse_labels(labels.read(), labels.file, len(skeleton))
    for line, action in enumerate(actions, 1):
        used = skeleton[action.start : min(action.stop, action.start + _MAX_FRAMES)]
        if not used.any():
            raise BadFile(
                labels.file,
                line,
                f"{video.file} has no body in frames {action.start} to {action.stop}",
            )
    persons = 2 if skeleton[:, 1].any() else 1
    info = {"actions": [(a.action, a.start, a.stop) for a in actions]}
    return Clip(Path(video.name).stem, skeleton[:, :persons], info)
