"""Builder to copy and change: text files `LABEL_PERFORMER_TAKE.csv`, 75 numbers a line.

A copy `tfds_builders/NAME/NAME_dataset_builder.py` becomes a data set when its NAME stands in
`BUILDERS` of `tfds_builders/build.py`. Change what is marked EDIT.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tensorflow_datasets as tfds

from pcm3_jax.data.joint_layouts import LAYOUTS
from pcm3_jax.data.skeleton_arrays import read_skeleton
from tfds_builders.parts import Clip, Part, StoredClip
from tfds_builders.raw_files import BadFile, RawFile
from tfds_builders.recorded_builder import Record, RecordedBuilder, Report
from tfds_builders.skeleton_builder import SkeletonConfig

LAYOUT = LAYOUTS["kinect_v2_25"]  # EDIT: one of these, or a table of your own
_NAME = re.compile(r"([a-z]+)_(\d+)_(\d+)\.csv", re.ASCII)  # EDIT


class Builder(RecordedBuilder):
    """EDIT: what it is."""

    VERSION = tfds.core.Version("1.0.0")  # raise it when a change of the parser changes the data
    MANUAL_DOWNLOAD_INSTRUCTIONS = "manual_dir holds the .csv files, at any depth."  # EDIT
    # EDIT: one for each protocol.
    BUILDER_CONFIGS = [SkeletonConfig(name="cross_subject", description="Odd performers train.")]
    LABELS = ("bow", "wave")  # EDIT: their order gives their numbers
    SUFFIX = ".csv"  # EDIT

    def _parts(self, files: Sequence[RawFile], report: Report) -> list[Part]:
        # EDIT: what is parsed together; thousands of small files are better grouped.
        by_name = self._by_name(files, report)
        return [Part(name, ((file,),), parse_file) for name, file in by_name.items()]

    def _records(
        self, clips: Iterable[StoredClip], report: Report
    ) -> Mapping[str, Sequence[Record]]:
        records: dict[str, list[Record]] = {"train": [], "test": []}
        for clip in clips:
            fields = {"name": clip.name, "camera": 0, "setup": 0, **clip.info}
            split = "train" if clip.info["subject"] % 2 else "test"  # EDIT: your protocol
            records[split].append(Record(clip, 0, clip.frames, fields))
        return records


def parse_file(file: RawFile) -> Clip:
    """The clip of one file; raises BadFile, which names it and says what is wrong."""
    name = _NAME.fullmatch(file.name)
    if name is None or name[1] not in Builder.LABELS:
        raise BadFile(file.file, None, "the name is not LABEL_PERFORMER_TAKE.csv")
    try:
        # EDIT: metres, (T, J, 3) or (T, M, J, 3) of at most two persons, NaN where one is missing.
        frames = np.loadtxt(file.read().decode().splitlines(), delimiter=",", ndmin=2)
        skeleton = read_skeleton(frames.reshape(len(frames), -1, 3), LAYOUT)
    except ValueError as error:
        raise BadFile(file.file, None, str(error)) from error
    info = {"label": Builder.LABELS.index(name[1]), "subject": int(name[2])}
    return Clip(file.name, skeleton, info)
