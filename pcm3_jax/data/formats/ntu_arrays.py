"""NTU RGB+D as the arrays in which other programs distribute it.

Each reader lists a file's recordings without loading their arrays; `load` reads one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pcm3_jax.data.formats.ntu_rgbd import parse_name
from pcm3_jax.data.formats.numpy_pickles import read_pickle
from pcm3_jax.data.formats.raw_files import BadFile
from pcm3_jax.data.formats.stored_arrays import StoredArray, in_npy, in_npz
from pcm3_jax.data.normalization import MAX_METRES, NANOMETRE, SPINE
from pcm3_jax.data.skeleton import COORDINATES, FEATURES, JOINTS, PERSONS
from pcm3_jax.errors import UserError

Form = Literal["authors", "ctrgcn", "pyskl"]
Refuse = Callable[[BadFile], None]

_SUFFIX = ".skeleton"
# The first person's spine may be this far (in metres) from the origin, if it should be there.
_AT_ORIGIN = 1e-4


@dataclass(frozen=True)
class Row:
    """One recording in an array file.

    Attributes:
        form: the file's form.
        file: the file and the recording's place in it, for messages.
        name: `SsssCcccPpppRrrrAaaa`, or `SPLIT_NUMBER` where the file has no names.
        stamp: a fingerprint that changes when the file does.
        label: its action, from 0.
        split: "train" or "test", as the file has it; None if it does not say.
        array: its coordinates.
        frames: its number of frames; None if the array does not say.
    """

    form: Form
    file: str
    name: str
    stamp: str
    label: int
    split: str | None
    array: StoredArray
    frames: int | None = None


def find(source: Path, names: Sequence[str], folder: str) -> Path:
    """The file of the first of these names that occurs in a folder; it may itself be the source.

    Args:
        source: a folder, searched at any depth, or a file.
        names: wanted names, in any case.
        folder: name of the folder to prefer if several have the file.

    Raises:
        UserError: there is none, or there are several.
    """
    paths = sorted(path for path in source.rglob("*") if path.is_file()) or [source]
    for name in names:
        found = [path for path in paths if path.name.lower() == name.lower()]
        if len(found) > 1:
            found = [path for path in found if path.parent.name == folder] or found
        if len(found) > 1:
            raise UserError(
                f"{source} holds {len(found)} files {name} ({found[0]}, {found[1]}); set "
                "--manual_dir to the folder of one."
            )
        if found:
            return found[0]
    raise UserError(
        f"{source} holds no file {' or '.join(names)}; unpack archives, and correct --manual_dir."
    )


def authors_rows(data: Path, refuse: Refuse) -> Iterator[Row]:
    """The recordings that the authors' program has preprocessed.

    Args:
        data: `train_data_joint.npy`; `val_data_joint.npy` and both `…_num_frame.npy` and
            `…_label.pkl` are beside it.
        refuse: called for a recording that cannot be used.

    Raises:
        UserError: a file cannot be used.
    """
    for split, (joints, numbers, labels_file) in authors_files(data).items():
        mark = stamp(joints, numbers, labels_file)
        array, counts = _readable(in_npy, joints), _readable(in_npy, numbers)
        pair = _readable(read_pickle, labels_file)
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise _unusable(labels_file, "found no pair where (names, labels) was expected")
        names, labels = pair
        labels = labels.load().tolist() if isinstance(labels, StoredArray) else labels
        if not isinstance(names, list) or not isinstance(labels, list):
            raise _unusable(labels_file, "found no lists where names and labels were expected")
        expected = (len(names), COORDINATES, *array.shape[2:3], JOINTS, PERSONS)
        _check_shape(joints, array, expected, "(recordings, 3, frames, 25, 2)")
        _check_shape(numbers, counts, (len(names),), "one number for each recording")
        frames = counts.load().astype(np.int64)
        if len(labels) != len(names):
            raise _unusable(labels_file, f"found {len(labels)} labels of {len(names)} names")
        for index, (name, label) in enumerate(zip(names, labels, strict=True)):
            place = f"{joints}, recording {index}"
            if known := _named(place, name, label, refuse):
                count = min(int(frames[index]), array.shape[2])
                yield Row(
                    "authors", place, known[0], mark, known[1], split, array.row(index), count
                )


def authors_files(data: Path) -> dict[str, list[Path]]:
    """{split: paths of its coordinates, numbers of frames, and names with labels}."""
    files = {
        split: [
            data.with_name(f"{prefix}_{kind}")
            for kind in ("data_joint.npy", "num_frame.npy", "label.pkl")
        ]
        for split, prefix in (("train", "train"), ("test", "val"))
    }
    for path in (path for some in files.values() for path in some):
        if not path.is_file():
            raise UserError(f"{path.parent} lacks {path.name}; add it.")
    return files


def ctrgcn_rows(data: Path, actions: int, refuse: Refuse) -> Iterator[Row]:
    """The recordings of a file that CTR-GCN's preprocessing wrote; they have no names.

    Args:
        data: a `.npz` file with `x_train` (N, T, 150), `y_train` (N, actions), `x_test`, `y_test`.
        actions: number of classes.
        refuse: called for a recording that cannot be used.

    Raises:
        UserError: the file cannot be used.
    """
    splits = ("train", "test")
    wanted = [f"{kind}_{split}" for split in splits for kind in "xy"]
    arrays = _readable(lambda path: in_npz(path, wanted), data)
    for split in splits:
        x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
        _check_shape(data, x, (*x.shape[:2], FEATURES), f"x_{split} (recordings, frames, 150)")
        one_hot = (x.shape[0], actions)
        _check_shape(data, y, one_hot, f"y_{split} {one_hot}, a 1 in the column of the action,")
        for index, row in enumerate(y.load()):
            place, labels = f"{data}, x_{split}, recording {index}", np.flatnonzero(row)
            if len(labels) == 1:
                name = f"{split}_{index:05d}"
                label = int(labels[0])
                yield Row("ctrgcn", place, name, stamp(data), label, split, x.row(index))
            else:
                reason = f"found {len(labels)} actions in y_{split} where one was expected"
                refuse(BadFile(place, None, reason))


def pyskl_rows(data: Path, split_by: str, refuse: Refuse) -> Iterator[Row]:
    """The recordings of a file of pyskl or MMAction2.

    Args:
        data: a pickle {"split": {name: names}, "annotations": [{"frame_dir", "label", "keypoint"
            (M, T, 25, 3), "total_frames"}]}.
        split_by: "xsub", "xview" or "xset": which of the file's splits to report.
        refuse: called for a recording that cannot be used.

    Raises:
        UserError: the file cannot be used.
    """
    content = _readable(read_pickle, data)
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list):
        raise _unusable(data, 'found no list under the key "annotations" where one was expected')
    splits = content.get("split")
    split_of = {
        name: split
        for split, key in (("train", f"{split_by}_train"), ("test", f"{split_by}_val"))
        for name in _strings(splits.get(key) if isinstance(splits, dict) else None)
    }
    mark = stamp(data)
    for index, found in enumerate(annotations):
        place = f"{data}, annotation {index}"
        found = found if isinstance(found, dict) else {}
        array = found.get("keypoint")
        known = _named(place, found.get("frame_dir"), found.get("label"), refuse)
        if not known:
            continue
        name, label = known
        if not isinstance(array, StoredArray):
            refuse(BadFile(f"{place} ({name})", None, "found no array under the key keypoint"))
            continue
        frames = found.get("total_frames")
        if len(array.shape) != 4 or type(frames) is not int or frames != array.shape[1]:
            reason = (
                f"found a keypoint of shape {array.shape} and total_frames {ascii(frames)[:20]} "
                f"where (persons, total_frames, {JOINTS}, {COORDINATES}) was expected"
            )
            refuse(BadFile(f"{place} ({name})", None, reason))
            continue
        yield Row("pyskl", place, name, mark, label, split_of.get(name), array)


def load(row: Row) -> np.ndarray:
    """The skeleton of a recording, (T, 2, 25, 3) float32 metres.

    Zeros mean what they mean in raw files: a joint that was not seen, or an absent person. In the
    authors' form, where the first person's spine is the origin of each frame, it is zero, too.

    Raises:
        BadFile: the recording cannot be used.
    """
    place = f"{row.file} ({row.name})"
    try:
        if row.array.dtype[1] not in "fiu":
            raise ValueError(f"found elements of type {row.array.dtype} where numbers are expected")
        # Overflow to infinity and NaN are rejected below.
        with np.errstate(over="ignore", invalid="ignore"):
            skeleton = _ARRANGED[row.form](row.array.load(), row.frames).astype(np.float32)
        if not (np.abs(skeleton) <= MAX_METRES).all():  # NaN fails, too
            raise ValueError("found a coordinate beyond 100 or not finite where metres were")
        if not skeleton.any():
            raise ValueError("found no body where at least one was expected")
        return _CHECKED[row.form](skeleton)
    except ValueError as error:
        raise BadFile(place, None, str(error)) from error


def _arranged_authors(array: np.ndarray, frames: int | None) -> np.ndarray:
    if not frames or frames < 1:
        raise ValueError(f"found {frames} frames where at least one was expected")
    # Later frames repeat earlier ones.
    return array[:, :frames].transpose(1, 3, 2, 0)


def _arranged_ctrgcn(array: np.ndarray, frames: int | None) -> np.ndarray:
    skeleton = array.reshape(-1, PERSONS, JOINTS, COORDINATES)
    present = np.flatnonzero(skeleton.any(axis=(1, 2, 3)))
    return skeleton[: present[-1] + 1 if len(present) else 0]


def _arranged_pyskl(array: np.ndarray, frames: int | None) -> np.ndarray:
    if not 1 <= len(array) <= PERSONS or array.shape[2:] != (JOINTS, COORDINATES):
        raise ValueError(f"found {_kind(array)} where (1 or 2, frames, 25, 3) was expected")
    absent = np.zeros((PERSONS - len(array), *array.shape[1:]), array.dtype)
    return np.concatenate([array, absent]).swapaxes(0, 1)


def _checked_authors(skeleton: np.ndarray) -> np.ndarray:
    if np.abs(skeleton[:, 0, SPINE]).max() > _AT_ORIGIN:
        raise ValueError(
            "found the first person's spine (joint 1) away from the origin, where the authors' "
            "preprocessing puts it in every frame"
        )
    return skeleton


def _checked_ctrgcn(skeleton: np.ndarray) -> np.ndarray:
    first = np.any(skeleton[:, 0], axis=(1, 2)).argmax()
    if np.abs(skeleton[first, 0, SPINE]).max() > _AT_ORIGIN:
        raise ValueError(
            "found the first person's spine (values 3 to 5) away from the origin in its first "
            "frame, where CTR-GCN's preprocessing puts it; the 150 values are person, joint, xyz"
        )
    # A joint at the origin of a person who is there is not a missing one: that was moved, too.
    there = np.any(skeleton, axis=(2, 3))
    skeleton[there[..., None] & ~np.any(skeleton, axis=-1)] = NANOMETRE
    return skeleton


def _unchecked(skeleton: np.ndarray) -> np.ndarray:
    return skeleton


_ARRANGED: Mapping[Form, Callable[[np.ndarray, int | None], np.ndarray]] = {
    "authors": _arranged_authors,
    "ctrgcn": _arranged_ctrgcn,
    "pyskl": _arranged_pyskl,
}
_CHECKED: Mapping[Form, Callable[[np.ndarray], np.ndarray]] = {
    "authors": _checked_authors,
    "ctrgcn": _checked_ctrgcn,
    "pyskl": _unchecked,
}


def _named(place: str, name: Any, label: Any, refuse: Refuse) -> tuple[str, int] | None:
    """Name without suffix, and label; None, and refused, if one of them cannot be right."""
    if not isinstance(name, str) or type(label) is not int:
        refuse(BadFile(place, None, "found no name with a label where both were expected"))
        return None
    try:
        recording = parse_name(f"{name.removesuffix(_SUFFIX)}{_SUFFIX}")
    except BadFile as flaw:
        refuse(BadFile(f"{place} ({ascii(name)[1:-1][:60]})", None, flaw.reason))
        return None
    if label != recording.action - 1:
        reason = f"found label {label} where its name says {recording.action - 1}, counting from 0"
        refuse(BadFile(f"{place} ({recording.name})", None, reason))
        return None
    return recording.name, label


def _strings(values: Any) -> list[str]:
    return [value for value in values if type(value) is str] if isinstance(values, list) else []


def _readable(read: Callable[[Path], Any], path: Path) -> Any:
    try:
        return read(path)
    except ValueError as error:
        raise _unusable(path, str(error)) from error


def _unusable(path: Path, reason: str) -> UserError:
    return UserError(f"{path} cannot be used: {reason}; make it or download it again.")


def _check_shape(path: Path, array: StoredArray, shape: tuple[int, ...], what: str) -> None:
    if array.shape != shape:
        raise _unusable(path, f"found an array of shape {array.shape} where {what} was expected")


def _kind(array: np.ndarray) -> str:
    return f"an array of shape {array.shape} and type {array.dtype}"


def stamp(*paths: Path) -> str:
    """A fingerprint of files that changes when one of them does."""
    return ",".join(f"{(s := path.stat()).st_size}:{s.st_mtime_ns}" for path in paths)
