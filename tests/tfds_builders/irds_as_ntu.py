"""Writes IntelliRehabDS as `.skeleton` files: the same motion in NTU RGB+D's format.

python -m tests.tfds_builders.irds_as_ntu FOLDER_OR_ARCHIVE DESTINATION
"""

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pcm3_jax.data.formats.raw_files import find_files
from tests.data.formats.raw_writers import skeleton_text
from tfds_builders.intellirehabds.intellirehabds_dataset_builder import (
    SUBJECTS_OF_SPLIT,
    parse_file,
)
from tfds_builders.ntu_rgbd.ntu_rgbd_dataset_builder import MISSING, TRAIN_SUBJECTS

# Performers of NTU RGB+D 60 in the same split as each subject.
_PERFORMERS = {
    "train": sorted(TRAIN_SUBJECTS),
    "test": sorted(set(range(1, 41)) - TRAIN_SUBJECTS),
}
PERFORMER = {
    subject: performer
    for split, subjects in SUBJECTS_OF_SPLIT.items()
    for subject, performer in zip(subjects, _PERFORMERS[split], strict=False)
}


def free_names(subject: int, gesture: int) -> Iterator[str]:
    """Names of NTU RGB+D for a subject's recordings of a gesture, without the excluded ones."""
    for setup, camera, take in itertools.product(range(1, 18), (1, 2, 3), (1, 2)):
        performer, action = PERFORMER[subject], gesture + 1
        name = f"S{setup:03d}C{camera:03d}P{performer:03d}R{take:03d}A{action:03d}"
        if name not in MISSING:
            yield name


def skeletons(source: Path) -> dict[str, tuple[str, np.ndarray]]:
    """{name: (name in NTU's form, (T, 2, 25, 3) metres)} of the recordings of a folder or archive.

    A missing joint is zero, an absent person is zeros.
    """
    names, found = {}, {}
    for file in find_files(source, ".txt"):
        clip = parse_file(file)
        kind = (clip.info["subject"], clip.info["label"])
        names.setdefault(kind, free_names(*kind))
        skeleton = np.nan_to_num(clip.skeleton)
        absent = np.zeros((len(skeleton), 2 - skeleton.shape[1], 25, 3), np.float32)
        found[clip.name] = next(names[kind]), np.concatenate([skeleton, absent], axis=1)
    return found


def write(source: Path, destination: Path) -> dict[str, str]:
    """Writes the recordings of a folder or archive; returns {name here: name in NTU's form}."""
    destination.mkdir(parents=True, exist_ok=True)
    found = skeletons(source)
    for name, skeleton in found.values():
        frames = [[body for body in frame if body.any()] for frame in skeleton]
        (destination / f"{name}.skeleton").write_bytes(skeleton_text(frames))
    return {clip: name for clip, (name, _) in found.items()}


if __name__ == "__main__":
    print(f"{len(write(Path(sys.argv[1]), Path(sys.argv[2]))):,} files written.")
