"""Compares labels online with those of whole recordings, and measures the time per frame.

python -m pcm3_jax.benchmark.online MODEL DATA_SET[:SPLIT] [--window=SECONDS] [--every_nth=1]

feeds each test recording to `Model.online`, 30 frames a second, and prints how often the label is
right after its last frame.  MODEL has a classifier, as for `pcm3_jax.predict`.  With `taskset -c 0`
the times are those of one core.
"""

from __future__ import annotations

import time

import numpy as np

from pcm3_jax.inference import model as library
from pcm3_jax.inference import skeleton_files
from pcm3_jax.runtime import commands

# Frames whose time does not count: they compile.
_WARM = 100


def run(argv: list[str]) -> None:
    """Runs the command; raises UserError for a model or data set that cannot be used."""
    parser = commands.Arguments(prog="python -m pcm3_jax.benchmark.online", description=__doc__)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("data_set", metavar="DATA_SET[:SPLIT]")
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--window", type=float)
    parser.add_argument("--every_nth", type=int, default=1, help="recordings to use")
    flags = parser.parse_args(argv)
    model = library.load(flags.model)
    name, _, split = flags.data_set.rpartition(":")
    if not name:
        name, split = flags.data_set, "test"
    found = skeleton_files.read_data_set(name, split, flags.data_dir)[:: flags.every_nth]
    whole = skeleton_files.prepared(model, found, None, False)
    at_end, took = ends(model, whole, flags.window)
    labels = [recording.label for recording in found]
    classified = [predicted[0][0] for predicted in model.classify(**whole, k=1)]
    right = {
        what: np.mean([ours == label for ours, label in zip(given, labels, strict=True)])
        for what, given in (("classify", classified), ("online, after the last frame", at_end))
    }
    for what, share in right.items():
        print(f"{what}: {100 * share:.1f} % of {len(found)} recordings")
    print(f"nothing shown after the last frame: {100 * np.mean([x is None for x in at_end]):.1f} %")
    median, slow = 1000 * np.percentile(took[_WARM:], (50, 99))
    print(f"a frame takes {median:.2f} ms in the median, {slow:.1f} ms in the 99th percentile")


def ends(
    model: library.Model, whole: dict, window: float | None
) -> tuple[list[str | None], list[float]]:
    """The label shown after each recording's last frame, and the seconds that each frame took."""
    online = model.online(window=window, normalize=whole["normalize"])
    labels, took = [], []
    for skeleton, mask in zip(whole["skeletons"], whole["mask"], strict=True):
        online.reset()
        for frame, missing in zip(skeleton, mask, strict=True):
            start = time.perf_counter()
            online.push(frame, missing)
            took.append(time.perf_counter() - start)
        labels.append(online.label)
    return labels, took


if __name__ == "__main__":
    commands.main(run)
