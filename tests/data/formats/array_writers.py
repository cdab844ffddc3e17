"""Writes NTU RGB+D as the arrays in which other programs distribute it.

Recordings are {name: (T, 2, 25, 3) float32 metres as recorded}, an absent person is zeros.
"""

import io
import pickle
import types
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from pcm3_jax.data.normalization import normalize_sequence

Recordings = Mapping[str, np.ndarray]


class Pickler(pickle._Pickler):
    """Writes the names of modules as they were before NumPy 2."""

    def save_global(self, obj, name=None):
        module = obj.__module__.replace("numpy._core", "numpy.core")
        if self.proto < 4:
            self.write(f"c{module}\n{obj.__qualname__}\n".encode())
        else:
            self.save(module)
            self.save(obj.__qualname__)
            self.write(pickle.STACK_GLOBAL)
        self.memoize(obj)

    dispatch = pickle._Pickler.dispatch | {types.FunctionType: save_global}


def pickled(value, protocol: int, numpy: int = 2) -> bytes:
    """A pickle as NumPy 1 or 2 writes it."""
    stream = io.BytesIO()
    (Pickler if numpy == 1 else pickle.Pickler)(stream, protocol).dump(value)
    return stream.getvalue()


def label_of(name: str) -> int:
    return int(name[-3:]) - 1


def write_authors(
    folder: Path, recordings: Recordings, is_train: Callable[[str], bool], frames: int = 300
) -> dict[str, np.ndarray]:
    """Writes the authors' six files; returns the arrays (frames, 2, 25, 3) by name."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for prefix, in_split in (("train", True), ("val", False)):
        names = [name for name in recordings if is_train(name) == in_split]
        for name in names:
            skeleton = normalize_sequence(recordings[name][:frames])
            # Their program fills the rest by repetition.
            arrays[name] = np.resize(skeleton, (frames, *skeleton.shape[1:]))
        data = np.stack([arrays[name].transpose(3, 0, 2, 1) for name in names])
        np.save(folder / f"{prefix}_data_joint.npy", data)
        lengths = np.array([len(recordings[name]) for name in names])
        np.save(folder / f"{prefix}_num_frame.npy", lengths)
        labels = [label_of(name) for name in names]
        content = pickled(([f"{name}.skeleton" for name in names], labels), 4)
        (folder / f"{prefix}_label.pkl").write_bytes(content)
    return arrays


def write_ctrgcn(
    path: Path,
    recordings: Recordings,
    is_train: Callable[[str], bool],
    actions: int = 60,
    frames: int = 300,
) -> dict[str, str]:
    """Writes CTR-GCN's file; returns {name: name in the built data set}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays, names = {}, {}
    for split, in_split in (("train", True), ("test", False)):
        chosen = [name for name in recordings if is_train(name) == in_split]
        names |= {name: f"{split}_{index:05d}" for index, name in enumerate(chosen)}
        x = np.zeros((len(chosen), frames, 150), np.float32)
        for row, name in zip(x, chosen, strict=True):
            skeleton = recordings[name][:frames].copy()
            there = skeleton.any(axis=(2, 3))
            skeleton -= skeleton[there[:, 0].argmax(), 0, 1]
            row[: len(skeleton)] = (skeleton * there[..., None, None]).reshape(-1, 150)
        labels = [label_of(name) for name in chosen]
        arrays |= {f"x_{split}": x, f"y_{split}": np.eye(actions)[labels]}
    np.savez(path, **arrays)
    return names


def pyskl(recordings: Recordings, splits: Mapping[str, Callable[[str], bool]]) -> dict:
    """The value that pyskl pickles; `splits` say what is in each `…_train`."""
    split = {}
    for name, is_train in splits.items():
        split[f"{name}_train"] = [each for each in recordings if is_train(each)]
        split[f"{name}_val"] = [each for each in recordings if not is_train(each)]
    annotations = []
    for name, skeleton in recordings.items():
        persons = 2 if skeleton[:, 1].any() else 1
        keypoint = skeleton[:, :persons].swapaxes(0, 1).astype(np.float16)
        fields = {"frame_dir": name, "label": label_of(name), "keypoint": keypoint}
        annotations.append(fields | {"total_frames": len(skeleton)})
    return {"split": split, "annotations": annotations}
