"""Template of a builder: text files `LABEL_PERFORMER_TAKE.csv` with 75 numbers per line.

Copy it to `tfds_builders/NAME/NAME_dataset_builder.py`, add NAME to `BUILDERS` in
`tfds_builders/__init__.py`, and change what is marked EDIT. A `README.md` and a `CITATIONS.bib` in
the same folder become the data set's description and citation.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import tensorflow_datasets as tfds

from pcm3_jax.data.formats.arrays import read_skeleton
from pcm3_jax.data.formats.raw_files import BadFile, RawFile
from pcm3_jax.data.joint_layouts import LAYOUTS
from tfds_builders.file_groups import Clip, FileGroup, StoredClip, group_files
from tfds_builders.recorded_builder import Record, RecordedBuilder
from tfds_builders.skeleton_builder import SkeletonConfig

LAYOUT = LAYOUTS["kinect_v2_25"]  # EDIT: one of these, or a table of your own
_NAME = re.compile(r"([a-z]+)_(\d{1,9})_(\d+)\.csv", re.ASCII)  # EDIT


class Builder(RecordedBuilder):
    """EDIT: description of the data set."""

    VERSION = tfds.core.Version("1.0.0")  # raise it when a change of the parser changes the data
    MANUAL_DOWNLOAD_INSTRUCTIONS = "manual_dir holds the .csv files, at any depth."  # EDIT
    # EDIT: one for each protocol.
    BUILDER_CONFIGS = [SkeletonConfig(name="cross_subject", description="Odd performers: train.")]
    LABELS = ("bow", "wave")  # EDIT: labels are numbered in this order
    SUFFIX = ".csv"  # EDIT

    def _file_groups(self, files: Sequence[RawFile]) -> list[FileGroup]:
        # EDIT: the second argument maps a file to its group's name. Files of a group are parsed
        # together; a few hundred small files are a good size.
        wanted = self._by_name(files).values()
        return group_files(wanted, lambda file: file.name, parse_file)

    def _records(self, clips: Iterable[StoredClip]) -> Iterator[tuple[str, Record]]:
        for clip in clips:
            fields = {"name": clip.name, "camera": 0, "setup": 0, **clip.info}
            split = "train" if clip.info["subject"] % 2 else "test"  # EDIT: your protocol
            yield split, Record(clip, 0, clip.frames, fields)


def parse_file(file: RawFile) -> Clip:
    """The clip of one file; raises BadFile with the file's name and the reason."""
    name = _NAME.fullmatch(file.name)
    if name is None or name[1] not in Builder.LABELS:
        raise BadFile(file.file, None, "the name is not LABEL_PERFORMER_TAKE.csv")
    try:
        # EDIT: metres, (T, J, 3) or (T, M, J, 3) with M <= 2 persons; NaN for a missing joint.
        frames = np.loadtxt(file.read().decode().splitlines(), delimiter=",", ndmin=2)
        skeleton = read_skeleton(frames.reshape(len(frames), -1, 3), LAYOUT)
    except ValueError as error:
        raise BadFile(file.file, None, str(error)) from error
    info = {"label": Builder.LABELS.index(name[1]), "subject": int(name[2])}
    return Clip(file.name, skeleton, info)
