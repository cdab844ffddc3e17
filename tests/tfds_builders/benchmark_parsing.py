"""Times reading and normalising `.skeleton` files, ours against a plain restatement.

    python -m tests.tfds_builders.benchmark_parsing [FILE_OR_FOLDER ...]

The plain way is how the field's public scripts work: a dictionary for every frame, body and joint,
then loops over 300 frames (shorter files are filled up to that), persons and joints, each joint
turned by a product of its own. Ours keeps a file's own length. Without an argument, files are
generated.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pcm3_jax.data.formats.ntu_rgbd import parse
from pcm3_jax.data.normalization import normalize_sequence, select_bodies
from tests.data.formats.raw_writers import skeleton_text

BODY_KEYS = ("id", "clipped", "left", "left_sure", "right", "right_sure", "held", "lean_x")
JOINT_KEYS = ("x", "y", "z", "dx", "dy", "cx", "cy", "qw", "qx", "qy", "qz", "tracking")
FRAMES = 300
REPETITIONS = 5


def plain_read(path: Path) -> np.ndarray:
    """The (T, 4, 25, 3) slots of a file, by way of dictionaries."""
    frames = []
    with open(path) as file:
        for _ in range(int(file.readline())):
            bodies = []
            for _ in range(int(file.readline())):
                body: dict[str, Any] = dict(
                    zip(BODY_KEYS, map(float, file.readline().split()), strict=False)
                )
                body["joints"] = [
                    dict(zip(JOINT_KEYS, map(float, file.readline().split()), strict=True))
                    for _ in range(int(file.readline()))
                ]
                bodies.append(body)
            frames.append(bodies)
    slots = np.zeros((len(frames), 4, 25, 3), np.float32)
    for t, bodies in enumerate(frames):
        for slot, body in enumerate(bodies[:4]):
            for v, joint in enumerate(body["joints"]):
                slots[t, slot, v] = [joint["x"], joint["y"], joint["z"]]
    return slots


def plain_normalize(skeleton: np.ndarray) -> np.ndarray:
    """The (300, 2, 25, 3) normalised sequence, frame by frame and joint by joint."""
    out = np.zeros((FRAMES, 2, 25, 3))
    out[: len(skeleton)] = skeleton[:FRAMES]
    for person in out.swapaxes(0, 1):
        if not person.any():
            continue
        if not person[0].any():
            present = person[[bool(frame.any()) for frame in person]].copy()
            person[:] = 0.0
            person[: len(present)] = present
        for t, frame in enumerate(person):
            if not frame.any() and not person[t:].any():
                person[t:] = np.concatenate([person[:t]] * math.ceil(FRAMES / t))[: FRAMES - t]
                break
    centre = out[:, 0, 1].copy()
    for person in out.swapaxes(0, 1):
        for t, frame in enumerate(person):
            if frame.any():
                person[t] = (frame - centre[t]) * frame.any(axis=-1, keepdims=True)
    _turn_all(out, out[0, 0, 1] - out[0, 0, 0], np.array([0.0, 0.0, 1.0]))
    _turn_all(out, out[0, 0, 8] - out[0, 0, 4], np.array([1.0, 0.0, 0.0]))
    return out


def _turn_all(skeleton: np.ndarray, source: np.ndarray, target: np.ndarray) -> None:
    axis = np.cross(source, target)
    angle = math.acos(np.dot(source, target) / np.linalg.norm(source))
    b, c, d = -axis / np.linalg.norm(axis) * math.sin(angle / 2)
    a = math.cos(angle / 2)
    matrix = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c + a * d), 2 * (b * d - a * c)],
            [2 * (b * c - a * d), a * a + c * c - b * b - d * d, 2 * (c * d + a * b)],
            [2 * (b * d + a * c), 2 * (c * d - a * b), a * a + d * d - b * b - c * c],
        ]
    )
    for person in skeleton.swapaxes(0, 1):
        for frame in person:
            if frame.any():
                for v, joint in enumerate(frame):
                    frame[v] = np.dot(matrix, joint)


def milliseconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """Time and result of one call."""
    start = time.perf_counter()
    result = function()
    return 1e3 * (time.perf_counter() - start), result


def compare(path: Path) -> np.ndarray:
    """Median milliseconds of a file: [[ours, plain] to read, [ours, plain] to normalise].

    Raises:
        AssertionError: if the two ways differ by more than the public program's float32 allows.
    """
    times = []
    for _ in range(REPETITIONS):  # interleaved, so that a busy machine slows both
        ours_read, parsed = milliseconds(lambda: parse(path.read_bytes(), str(path)))
        plain_read_time, slots = milliseconds(lambda: plain_read(path))
        np.testing.assert_array_equal(parsed.skeleton, slots[:, : parsed.skeleton.shape[1]])
        kept = select_bodies(slots)
        ours_normalize, ours = milliseconds(lambda kept=kept: normalize_sequence(kept))
        plain_normalize_time, plain = milliseconds(lambda kept=kept: plain_normalize(kept))
        if len(kept) <= FRAMES:
            np.testing.assert_allclose(ours, plain[: len(kept)], rtol=0, atol=1e-5)
        times.append([[ours_read, plain_read_time], [ours_normalize, plain_normalize_time]])
    return np.median(times, axis=0)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints one line a file and the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", type=Path, metavar="FILE_OR_FOLDER")
    paths = parser.parse_args(argv).paths
    with tempfile.TemporaryDirectory() as folder:
        if not paths:
            rng = np.random.default_rng(0)
            for i, (frames, bodies) in enumerate([(60, 1), (100, 1), (100, 2)]):
                xyz = rng.normal(size=(frames, bodies, 25, 3)) + [0.0, 0.0, 3.0]
                (Path(folder) / f"{i}.skeleton").write_bytes(skeleton_text(list(xyz)))
            paths = [Path(folder)]
        files = [f for p in paths for f in (sorted(p.rglob("*.skeleton")) if p.is_dir() else [p])]
        times = []
        print(f"{'file':30}{'kB':>6}  read: ours, plain, ratio  normalise: ours, plain, ratio (ms)")
        for file in files:
            times.append(compare(file))
            print(f"{file.name:30}{file.stat().st_size / 1e3:6.0f}{_row(times[-1])}", flush=True)
        print(f"{'median':36}{_row(np.median(times, axis=0))}")


def _row(times: np.ndarray) -> str:
    return "".join(f"{ours:12.2f}{plain:8.1f}{plain / ours:6.1f}x" for ours, plain in times)


if __name__ == "__main__":
    main()
