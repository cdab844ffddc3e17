"""Builder of `ntu_rgbd` from the `.skeleton` files of its authors."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from pcm3_jax.data.formats.ntu_rgbd import MAX_SLOTS, parse, parse_name
from pcm3_jax.data.formats.raw_files import BadFile, RawFile
from pcm3_jax.data.normalization import select_bodies
from tfds_builders.file_groups import Clip, FileGroup, StoredClip, group_files
from tfds_builders.recorded_builder import SECOND_ONLY, Record, RecordedBuilder, second_only
from tfds_builders.skeleton_builder import SkeletonConfig

_FOLDER = Path(__file__).parent
ACTIONS = tuple((_FOLDER / "actions.txt").read_text().splitlines())
# Recordings whose skeletons the authors list as missing or incomplete.
MISSING = frozenset((_FOLDER / "missing.txt").read_text().split())

TRAIN_SUBJECTS = frozenset(
    # NTU RGB+D 60
    [1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38]
    # and 120
    + [45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78, 80, 81, 82, 83, 84, 85, 86]
    + [89, 91, 92, 93, 94, 95, 97, 98, 100, 103]
)
TRAIN_CAMERAS = frozenset([2, 3])
# NTU RGB+D 60 is set-ups 1 to 17 with actions 1 to 60; the other set-ups have the other actions.
LAST_SETUP_OF_60 = 17
# Recordings of each action: of actions 1 to 60, and of actions 61 to 120.
_TAKES_OF_60, _TAKES_OF_REST = 948, 960


@dataclasses.dataclass(eq=False, kw_only=True)
class Protocol(SkeletonConfig):
    """The recordings of a benchmark and their split.

    Attributes:
        actions: number of actions, 60 or 120.
        split_by: "subject", "camera" or "setup".
        train, test: examples that a complete download gives.
    """

    actions: int
    split_by: str
    train: int
    test: int

    def is_train(self, subject: int, camera: int, setup: int) -> bool:
        """Whether a recording belongs to the training split."""
        return {
            "subject": subject in TRAIN_SUBJECTS,
            "camera": camera in TRAIN_CAMERAS,
            "setup": setup % 2 == 0,
        }[self.split_by]


class Builder(RecordedBuilder):
    """NTU RGB+D 60 and 120, trimmed recordings."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Ask the ROSE Lab (https://rose1.ntu.edu.sg/dataset/actionRecognition) for the 3D "
        "skeletons of NTU RGB+D and, for the 120 actions, of NTU RGB+D 120; manual_dir holds the "
        "zip archives or the unpacked .skeleton files, at any depth."
    )
    BUILDER_CONFIGS = [
        Protocol(
            name="ntu60_xsub", description="60 actions, cross-subject (20 of 40 for training).",
            actions=60, split_by="subject", train=40091, test=16487,
        ),
        Protocol(
            name="ntu60_xview", description="60 actions, cross-view (cameras 2, 3 for training).",
            actions=60, split_by="camera", train=37646, test=18932,
        ),
        Protocol(
            name="ntu120_xsub", description="120 actions, cross-subject (53 of 106 for training).",
            actions=120, split_by="subject", train=63026, test=50919,
        ),
        Protocol(
            name="ntu120_xset", description="120 actions, cross-setup (even for training).",
            actions=120, split_by="setup", train=54468, test=59477,
        ),
    ]  # fmt: skip
    HOMEPAGE = "https://rose1.ntu.edu.sg/dataset/actionRecognition"
    SUFFIX = ".skeleton"
    MAX_FRAMES = 300

    @property
    def LABELS(self) -> Sequence[str]:
        return ACTIONS[: self.builder_config.actions]

    def _file_groups(self, files: Sequence[RawFile]) -> list[FileGroup]:
        wanted = []
        for name, file in self._by_name(files).items():
            try:
                recording = parse_name(name)
            except BadFile as flaw:
                self._refuse(BadFile(file.file, None, flaw.reason))
                continue
            if self.builder_config.actions == 60 and recording.setup > LAST_SETUP_OF_60:
                self.report.leave_out(name, "not part of NTU RGB+D 60")
            elif recording.name in MISSING:
                self.report.leave_out(name, "listed by the authors as missing or incomplete")
            else:
                wanted.append(file)
        # A group has the same set-up, camera and subject: SsssCcccPppp.
        return group_files(wanted, lambda file: file.name[:12], parse_file)

    def _records(self, clips: Iterable[StoredClip]) -> Iterator[tuple[str, Record]]:
        protocol = self.builder_config
        self.report.expected_splits = {"train": protocol.train, "test": protocol.test}
        self.report.expected_classes = {
            name: (_TAKES_OF_60 if label < 60 else _TAKES_OF_REST) - _MISSING_OF_CLASS[label]
            for label, name in enumerate(self.LABELS)
        }
        crowded = []
        for clip in clips:
            _, setup, camera, subject, _, action = parse_name(f"{clip.name}{self.SUFFIX}")
            place = {"subject": subject, "camera": camera, "setup": setup}
            split = "train" if protocol.is_train(**place) else "test"
            fields = {"name": clip.name, "label": action - 1, **place}
            yield split, Record(clip, 0, clip.frames, fields)
            if clip.info["bodies"] > MAX_SLOTS:
                crowded.append(clip.name)
            if clip.info["second_only"]:
                self.report.note(clip.name, SECOND_ONLY)
        if crowded:
            self.report.notes.append(
                f"{len(crowded):,} recordings have frames with more than {MAX_SLOTS} bodies; only "
                f"the first {MAX_SLOTS} are used: {', '.join(crowded)}"
            )


_MISSING_OF_CLASS = Counter(int(name[-3:]) - 1 for name in MISSING)


def parse_file(file: RawFile) -> Clip:
    """The clip of one file; raises BadFile."""
    parsed = parse(file.read(), file.file)
    skeleton = select_bodies(parsed.skeleton)
    used = skeleton[: Builder.MAX_FRAMES]
    if not used.any():
        raise BadFile(
            file.file,
            None,
            f"found no body in the first {Builder.MAX_FRAMES} frames; later ones are not used",
        )
    info = {"bodies": parsed.bodies, "second_only": second_only(used)}
    return Clip(parse_name(file.name).name, skeleton, info)
