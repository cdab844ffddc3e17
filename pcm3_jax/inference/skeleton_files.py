"""Reads skeletons from files of any supported format, folders, archives and built data sets."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pcm3_jax.data import plausibility, recordings
from pcm3_jax.data.formats import intellirehabds, ntu_rgbd, pku_mmd
from pcm3_jax.data.formats.arrays import read_arrays
from pcm3_jax.data.formats.raw_files import ARCHIVES, RawFile, find_files, needed
from pcm3_jax.data.normalization import select_bodies
from pcm3_jax.data.plausibility import Measures
from pcm3_jax.data.skeleton import COORDINATES, JOINTS, missing_joints
from pcm3_jax.errors import UserError, note
from pcm3_jax.inference import shipped_models
from pcm3_jax.inference.model import Model
from pcm3_jax.inference.validation import read_sequence
from pcm3_jax.runtime.files import shown
from pcm3_jax.runtime.parallel import Devices
from pcm3_jax.settings import Config

SUFFIXES = (".skeleton", ".txt", ".npy", ".npz")
FORMATS = ".skeleton (NTU RGB+D), .txt (PKU-MMD or IntelliRehabDS), .npy and .npz"
SPLITS = ("train", "test")
# What to do about a file that cannot be used.
REPAIR = "repair the file or leave it out"
# Published results use the first frames of a .skeleton file only, also for normalisation.
_NTU_FRAMES = 300


def print_layout_note(model: str, layout: str | None) -> None:
    """Prints a note if a model of the package was not trained for the joints of ``layout``."""
    if clause := shipped_models.layout_note(model, layout):
        note(clause)


class Recording(NamedTuple):
    """A sequence from a file or data set.

    Attributes:
      name: for output.
      skeletons: (T, M, J, 3) or (T, J, 3) in metres.
      data_set: name of the data set that it comes from, whose normalisation it has; or "".
      label, performer: of a data set.
    """

    name: str
    skeletons: np.ndarray
    data_set: str = ""
    label: str = ""
    performer: int = 0

    @property
    def persons(self) -> int:
        """How many persons are in it."""
        poses = np.nan_to_num(self.skeletons)
        return 1 if poses.ndim == 3 else int(poses.any(axis=(0, 2, 3)).sum())


def embed(
    model: Model, found: Sequence[Recording], layout: str | None, normalized: bool
) -> np.ndarray:
    """Features (N, F) of recordings, normalised unless they are already.

    Raises:
      UserError: a recording cannot be used, or its data set is normalised in another way.
    """
    features = np.zeros((len(found), model.features), np.float32)
    for data_set in {recording.data_set for recording in found}:
        ids = [i for i, recording in enumerate(found) if recording.data_set == data_set]
        with_mask = prepared(model, [found[i] for i in ids], layout, normalized)
        features[ids] = model.embed(**with_mask)
    return features


def prepared(
    model: Model, found: Sequence[Recording], layout: str | None, normalized: bool
) -> dict[str, Any]:
    """Arguments for a method of a model, such as `Model.embed`, that takes these recordings.

    Raises:
      UserError: their data set is normalised in another way than the model needs.
    """
    skeletons = [recording.skeletons for recording in found]
    if data_set := found[0].data_set:
        model.check_normalized(data_set)
        missing = [missing_joints(skeleton) for skeleton in skeletons]
        return {"skeletons": skeletons, "mask": missing, "normalize": False}
    return {"skeletons": skeletons, "layout": layout, "normalize": not normalized}


def print_persons_note(model: Model, found: Sequence[Recording]) -> None:
    """Prints a note if the model leaves out persons."""
    crowded = [recording for recording in found if recording.persons > model.persons]
    if crowded:
        who = "the person who moves" if model.persons == 1 else "the two persons who move"
        note(
            f"{len(crowded)} of {len(found)} recordings show more persons than the model was "
            f"trained on, {model.persons} (first: {shown(crowded[0].name)}); {who} most counts"
        )


def measures(found: Sequence[Recording], layout: str | None) -> list[Measures]:
    """Body measures of recordings, for `print_notes`."""
    return [
        plausibility.measure(
            recording.skeletons
            if recording.data_set
            else read_sequence(recording.skeletons, shown(recording.name), layout=layout).poses
        )
        for recording in found
    ]


def print_notes(measured: list[Measures]) -> None:
    """Prints what is implausible in most recordings, and why."""
    for shared in plausibility.shared_notes(measured):
        note(shared)


def read(name: str, layout: str | None = None, data_dir: str = "data") -> list[Recording]:
    """Reads all sequences of a file, a folder, an archive, or a split of a built data set.

    Text files hold one sequence.  Array files hold sequences (T, M, 25, 3) or (T, 25, 3), or
    batches of them (N, T, M, 25, 3); names in a ``.npz`` are arbitrary.  With a ``layout``
    (`pcm3_jax.data.joint_layouts`) they have its J joints instead of 25.  "DATA_SET:SPLIT" is a
    split of a data set in ``data_dir``.

    Raises:
      UserError: names the file, the line and what is wrong.
    """
    path = Path(name)
    data_set, _, split = name.rpartition(":")
    if data_set and split in SPLITS and not path.exists():
        return read_data_set(data_set, split, data_dir)
    if path.is_dir() or path.name.lower().endswith(ARCHIVES):
        found = [
            recording for file in find_files(path, SUFFIXES) for recording in _of_file(file, layout)
        ]
    else:
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(
                f"{shown(name)} has an unknown format; supported are {FORMATS}, folders and "
                "archives of these, and DATA_SET:SPLIT."
            )
        found = _of_file(RawFile(name, ""), layout)
    if not found:
        raise UserError(f"{shown(name)} holds no sequence.")
    return found


def read_data_set(name: str, split: str, data_dir: str) -> list[Recording]:
    """The sequences of a split of a built data set, without frames that training does not use.

    Raises:
      UserError: it is not built or cannot be read.
    """
    config = Config()
    devices, limit = Devices(config.mapping), config.data.max_frames
    found = recordings.read(name, data_dir, split, limit, devices, resident=False)
    return [
        Recording(file, example["skeleton"], name, found.classes[label], int(example["subject"]))
        for file, label, example in zip(found.name, found.label, found.examples(), strict=True)
    ]


def _of_file(file: RawFile, layout: str | None) -> list[Recording]:
    reader = {".skeleton": _ntu, ".txt": _text, ".npy": _arrays, ".npz": _arrays}
    with needed(REPAIR):
        arrays = reader[Path(file.file).suffix.lower()](file)
    found = []
    for key, array in arrays.items():
        label = f"{file.file}:{key}" if key else file.file
        if array.ndim == 5:
            found += [Recording(f"{label}[{i}]", part) for i, part in enumerate(array)]
        else:
            found.append(Recording(label, array))
    for recording in found:
        read_sequence(recording.skeletons, shown(recording.name), layout=layout)
    return found


def _ntu(file: RawFile) -> dict[str, np.ndarray]:
    slots = ntu_rgbd.parse(file.read(), file.file).skeleton
    return {"": select_bodies(slots)[:_NTU_FRAMES]}


def _text(file: RawFile) -> dict[str, np.ndarray]:
    content = file.read()
    # Files of one person with commas are IntelliRehabDS's.
    if content.lstrip().partition(b"\n")[0].count(b",") == JOINTS * COORDINATES - 1:
        return {"": intellirehabds.parse(content, file.file)[:, None]}
    return {"": pku_mmd.parse_video(content, file.file)}


def _arrays(file: RawFile) -> dict[str, np.ndarray]:
    on_disk = file.archive is None and file.content is None
    try:
        return read_arrays(Path(file.file) if on_disk else BytesIO(file.read()))
    except OSError as error:
        raise UserError(f"{shown(file.file)} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise UserError(f"{shown(file.file)} {error}.") from error
