"""Builder of `intellirehabds` from the text files of its authors (simplified joint positions)."""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from tfds_builders.parts import Clip, Part, StoredClip
from tfds_builders.raw_files import BadFile, RawFile
from tfds_builders.recorded_builder import Record, RecordedBuilder, Report
from tfds_builders.skeleton_builder import SkeletonConfig

GESTURES = (
    "elbow_flexion_left",
    "elbow_flexion_right",
    "shoulder_flexion_left",
    "shoulder_flexion_right",
    "shoulder_abduction_left",
    "shoulder_abduction_right",
    "shoulder_forward_elevation",
    "side_tap_left",
    "side_tap_right",
)
# Physiotherapists, patients (there is no 208), students.
SUBJECTS = (*range(101, 108), *range(201, 208), *range(209, 218), *range(301, 308))
# Alternating keeps the groups balanced: patients move differently from students.
SUBJECTS_OF_SPLIT = {"train": SUBJECTS[::2], "test": SUBJECTS[1::2]}

_FILE_NAME = re.compile(r"(\d+)_(\d+)_([0-8])_(\d+)_([123])_([A-Za-z-]+)\.txt")
_NUMBERS = 75  # 25 joints of x, y, z


class Recording(NamedTuple):
    """One text file: `name` without its suffix, `skeleton` (T, 25, 3) float32 metres as stored."""

    name: str
    subject: int
    gesture: int
    skeleton: np.ndarray


class Builder(RecordedBuilder):
    """IntelliRehabDS, cross-subject split, whole recordings."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Download the simplified joint positions of IntelliRehabDS (Zenodo record 4610859); "
        "manual_dir is the archive, or a folder with the archive or its text files."
    )
    BUILDER_CONFIGS = [
        SkeletonConfig(
            name="cross_subject", description="Subjects alternate between train and test."
        )
    ]
    LABELS = GESTURES
    HOMEPAGE = "https://doi.org/10.5281/zenodo.4610859"
    SUFFIX = ".txt"

    def _parts(self, files: Sequence[RawFile], report: Report) -> list[Part]:
        # The files of a subject, whose number leads the name, are one part.
        groups = itertools.groupby(
            self._by_name(files, report).values(), lambda file: file.name.split("_")[0]
        )
        return [
            Part(subject, tuple((file,) for file in some), parse_file) for subject, some in groups
        ]

    def _records(
        self, clips: Iterable[StoredClip], report: Report
    ) -> Mapping[str, Sequence[Record]]:
        report.expected_splits = {"train": 1434, "test": 1155}
        records: dict[str, list[Record]] = {split: [] for split in SUBJECTS_OF_SPLIT}
        for clip in clips:
            fields = {"name": clip.name, "camera": 0, "setup": 0, **clip.info}
            split = "train" if fields["subject"] in SUBJECTS_OF_SPLIT["train"] else "test"
            records[split].append(Record(clip, 0, clip.frames, fields))
        return records


def parse_file(file: RawFile) -> Clip:
    """The clip of one file; raises BadFile."""
    recording = parse_recording(file.file, file.read())
    skeleton = bridge_lost_joints(recording.skeleton)[:, None]
    return Clip(
        recording.name, skeleton, {"subject": recording.subject, "label": recording.gesture}
    )


def bridge_lost_joints(skeleton: np.ndarray) -> np.ndarray:
    """Interpolates all-zero joints over time, (T, 25, 3) to (T, 25, 3); before and after: held.

    One recording lacks the trunk in one frame. Left as it is, normalisation would leave that
    frame at the camera's origin, metres from its neighbours. A joint that is never seen, and a
    frame in which no joint is seen, stay as they are.
    """
    seen = np.any(skeleton, axis=-1)
    present = np.any(seen, axis=-1)
    bridged = skeleton.copy()
    time = np.arange(len(skeleton))
    for joint in np.flatnonzero(~seen[present].all(axis=0) & seen.any(axis=0)):
        lost = present & ~seen[:, joint]
        known = seen[:, joint]
        for axis in range(3):
            bridged[lost, joint, axis] = np.interp(
                time[lost], time[known], skeleton[known, joint, axis]
            )
    return bridged


def parse_recording(path: str, content: bytes) -> Recording:
    """Parses one file, `SubjectId_DateId_Gesture_Repetition_Correct_Position.txt`.

    Args:
        path: where the file is, for messages; its last part is parsed.
        content: lines of 75 comma-separated numbers, 25 joints of x, y, z in metres.

    Raises:
        BadFile: names file and line of the first flaw.
    """
    fields = _FILE_NAME.fullmatch(Path(path).name)
    if fields is None:
        raise BadFile(
            path,
            None,
            "the name is not SubjectId_DateId_Gesture_Repetition_Correct_Position.txt with "
            "gesture 0-8 and correct 1-3",
        )
    if int(fields[1]) not in SUBJECTS:
        raise BadFile(path, None, f"no subject has the number {fields[1]}")
    lines = content.decode("ascii", errors="replace").splitlines()
    if not lines:
        raise BadFile(path, None, "the file is empty")
    frames = np.empty((len(lines), _NUMBERS), np.float32)
    for number, line in enumerate(lines, 1):
        values = line.split(",")
        if len(values) != _NUMBERS:
            raise BadFile(path, number, f"{len(values)} numbers instead of {_NUMBERS}")
        try:
            with np.errstate(over="ignore"):  # infinite in float32: refused below
                frames[number - 1] = list(map(float, values))
        except ValueError as error:
            raise BadFile(path, number, str(error)) from None
    finite = np.isfinite(frames).all(axis=1)
    if not finite.all():
        raise BadFile(path, int(finite.argmin()) + 1, "a coordinate is not finite")
    if not frames.any():
        raise BadFile(path, None, "no joint was seen in any frame")
    return Recording(
        name=Path(path).stem,
        subject=int(fields[1]),
        gesture=int(fields[3]),
        skeleton=frames.reshape(-1, 25, 3),
    )
