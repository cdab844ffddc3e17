"""Builder of `intellirehabds` from the text files of its authors (simplified joint positions)."""

from collections.abc import Iterable, Iterator, Sequence

import tensorflow_datasets as tfds

from pcm3_jax.data.formats.intellirehabds import SUBJECTS, parse, parse_name
from pcm3_jax.data.formats.raw_files import RawFile
from tfds_builders.file_groups import Clip, FileGroup, StoredClip, group_files
from tfds_builders.recorded_builder import Record, RecordedBuilder
from tfds_builders.skeleton_builder import SkeletonConfig

# Alternating keeps the groups balanced: patients move differently from students.
SUBJECTS_OF_SPLIT = {"train": SUBJECTS[::2], "test": SUBJECTS[1::2]}


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
    LABELS = (
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
    HOMEPAGE = "https://doi.org/10.5281/zenodo.4610859"
    SUFFIX = ".txt"

    def _file_groups(self, files: Sequence[RawFile]) -> list[FileGroup]:
        # A group is the files of a subject, whose number is the first part of the name.
        wanted = self._by_name(files).values()
        return group_files(wanted, lambda file: file.name.split("_")[0], parse_file)

    def _records(self, clips: Iterable[StoredClip]) -> Iterator[tuple[str, Record]]:
        self.report.expected_splits = {"train": 1434, "test": 1155}
        for clip in clips:
            fields = {"name": clip.name, "camera": 0, "setup": 0, **clip.info}
            split = "train" if fields["subject"] in SUBJECTS_OF_SPLIT["train"] else "test"
            yield split, Record(clip, 0, clip.frames, fields)


def parse_file(file: RawFile) -> Clip:
    """The clip of one file; raises BadFile."""
    name, subject, gesture = parse_name(file.name, file.file)
    skeleton = parse(file.read(), file.file)[:, None]
    return Clip(name, skeleton, {"subject": subject, "label": gesture})
