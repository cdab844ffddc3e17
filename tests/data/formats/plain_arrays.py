"""Slow readers of NTU RGB+D's arrays by NumPy and pickle, for comparison with the package's.

Each gives a list of (name or split, label, (T, 2, 25, 3) float32), or raises anything.
"""

import importlib
import pickle
import re

import numpy as np

NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})(\.skeleton)?", re.ASCII)
LIMITS = (32, 3, 106, 2, 120)
ALLOWED = {
    ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"), ("builtins", "bytes"),
    ("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"),
}  # fmt: skip


class Unpickler(pickle._Unpickler):
    """Python's own, with NumPy's own functions and no others."""

    def find_class(self, module, name):
        module = module.replace("__builtin__", "builtins").replace("numpy.core", "numpy._core")
        assert (module.removeprefix("numpy._core."), name) in ALLOWED
        return getattr(importlib.import_module(module), name)


def plain_pickle(path):
    with open(path, "rb") as file:
        return Unpickler(file).load()


def named(name, label):
    fields = NAME.fullmatch(name)
    assert all(1 <= int(n) <= last for n, last in zip(fields.groups()[:5], LIMITS, strict=True))
    assert type(label) is int and label == int(fields[5]) - 1
    return name[:20]


def metres(skeleton):
    skeleton = skeleton.astype(np.float32)
    assert np.isfinite(skeleton).all() and np.abs(skeleton).max() <= 100 and skeleton.any()
    return skeleton


def plain_pyskl(path):
    recordings = []
    for found in plain_pickle(path)["annotations"]:
        name = named(found["frame_dir"], found["label"])
        persons, frames, joints, coordinates = found["keypoint"].shape
        assert persons in (1, 2) and (joints, coordinates) == (25, 3)
        assert type(found["total_frames"]) is int and found["total_frames"] == frames
        skeleton = np.zeros((frames, 2, 25, 3), np.float32)
        for person in range(persons):
            skeleton[:, person] = found["keypoint"][person]
        recordings.append((name, found["label"], metres(skeleton)))
    return recordings


def plain_authors(folder):
    recordings = []
    for prefix in ("train", "val"):
        data = np.load(folder / f"{prefix}_data_joint.npy")
        lengths = np.load(folder / f"{prefix}_num_frame.npy")
        names, labels = plain_pickle(folder / f"{prefix}_label.pkl")
        assert data.ndim == 5 and data.shape[1:2] + data.shape[3:] == (3, 25, 2)
        assert len(data) == len(names) == len(labels) and lengths.shape == (len(data),)
        for sample, length, name, label in zip(data, lengths, names, labels, strict=True):
            assert length >= 1
            frames = [[sample[:, t, :, m].T for m in range(2)] for t in range(len(sample[0]))]
            skeleton = metres(np.array(frames)[:length])
            assert np.abs(skeleton[:, 0, 1]).max() <= 1e-4
            recordings.append((named(name, label), label, skeleton))
    return recordings


def plain_ctrgcn(path):
    recordings = []
    with np.load(path) as arrays:
        for split in ("train", "test"):
            x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
            assert x.shape[2:] == (150,) and y.shape == (len(x), 60)
            for index, (sample, one_hot) in enumerate(zip(x, y, strict=True)):
                (label,) = (i for i, value in enumerate(one_hot) if value != 0)
                skeleton = metres(sample.reshape(-1, 2, 25, 3))
                while not skeleton[-1].any():
                    skeleton = skeleton[:-1]
                there = [t for t, frame in enumerate(skeleton) if frame[0].any()]
                assert np.abs(skeleton[there[0] if there else 0, 0, 1]).max() <= 1e-4
                for t, m, joint in np.ndindex(skeleton.shape[:3]):
                    if skeleton[t, m].any() and not skeleton[t, m, joint].any():
                        skeleton[t, m, joint] = np.float32(1e-9)
                recordings.append((f"{split}_{index:05d}", label, skeleton))
    return recordings
