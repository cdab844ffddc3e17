"""Measures what a classifier of 25 joints keeps on recordings of other joint layouts.

python -m tfds_builders.build intellirehabds/cross_subject --manual_dir=DOWNLOAD --data_dir=data
python -m pcm3_jax.benchmark.layouts [MODEL …] [--data_dir=data]

prints the table of docs/own_data.md.  MODEL: as for `pcm3_jax.embed`, by default base.  From the
recordings of Kinect v2 those of each layout are made: joints that it lacks are missing, and joints
that it defines as means are these means.  Of each model there are two columns: the accuracy of a
classifier fitted to the training recordings with all joints, and of one fitted to those of the same
layout as the test recordings.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

import pcm3_jax
from pcm3_jax.benchmark.ready import IRDS, Split, read, table
from pcm3_jax.data.joint_layouts import KINECT_V2_JOINTS, LAYOUTS, Layout, to_kinect_v2
from pcm3_jax.data.skeleton import missing_joints
from pcm3_jax.inference import recogniser
from pcm3_jax.inference.model import Model
from pcm3_jax.runtime import commands

ALL = "kinect_v2_25"


def as_recorded(skeleton: np.ndarray, layout: Layout) -> np.ndarray:
    """A recording of Kinect v2 as one of another layout, converted.

    Args:
        skeleton: (T, M, 25, 3), zeros where a joint is missing.
        layout: the other layout.

    Returns:
        (T, M, 25, 3) in the same axes, NaN where a joint is missing.  Means of joints that Kinect
        v2 lacks, such as the head from the ears, are Kinect v2's joint.
    """
    poses = np.where(missing_joints(skeleton)[..., None], np.nan, skeleton)
    raw = np.full((*poses.shape[:2], len(layout.joints), 3), np.nan, np.float32)
    made = []
    for joint, name in enumerate(KINECT_V2_JOINTS):
        if len(layout.sources[name]) == 1:
            raw[..., layout.joints.index(layout.sources[name][0]), :] = poses[..., joint, :]
            made.append(layout.sources[name][0])
    found = to_kinect_v2(raw, Layout(layout.joints, layout.sources))
    for joint, name in enumerate(KINECT_V2_JOINTS):
        if not set(layout.sources[name]) <= set(made):
            found[..., joint, :] = poses[..., joint, :]
    return found


def features(model: Model, split: Split, layout: str) -> np.ndarray:
    """Features (S, F) of a split's recordings as recordings of a layout."""
    converted = [as_recorded(skeleton, LAYOUTS[layout]) for skeleton in split.skeletons]
    missing = [np.isnan(skeleton).any(axis=-1) for skeleton in converted]
    return model.embed([np.nan_to_num(skeleton) for skeleton in converted], missing)


def accuracies(model: Model, splits: dict[str, Split]) -> Iterator[tuple[float, float]]:
    """For each layout the accuracies in [0, 1]: fitted to all joints, and to the layout's."""
    train, test = splits["train"], splits["test"]

    def fitted(layout: str) -> recogniser.Recogniser:
        labels, performers = train.label.tolist(), train.performer.tolist()
        return recogniser.fit(features(model, train, layout), labels, performers)

    def accuracy(classifier: recogniser.Recogniser, tested: np.ndarray) -> float:
        best = (tested @ classifier.kernel + classifier.bias).argmax(axis=1)
        return float(np.mean(np.array(classifier.classes)[best] == test.label.astype(str)))

    whole = fitted(ALL)
    for layout in LAYOUTS:
        tested = features(model, test, layout)
        own = whole if layout == ALL else fitted(layout)
        yield accuracy(whole, tested), accuracy(own, tested)


def run(argv: list[str]) -> None:
    """Runs the command; raises UserError if a model or the data set is missing."""
    parser = commands.Arguments(prog="python -m pcm3_jax.benchmark.layouts", description=__doc__)
    parser.add_argument("models", nargs="*", default=["base"], metavar="MODEL")
    parser.add_argument("--data_dir", default="data")
    flags = parser.parse_args(argv)
    models = [pcm3_jax.load(name) for name in flags.models]
    splits = read(IRDS, flags.data_dir)
    head = ["layout", "joints kept"]
    rows = [[name, str(25 - len(layout.missing))] for name, layout in LAYOUTS.items()]
    for name, model in zip(flags.models, models, strict=True):
        head += [f"{name}, fitted to 25 joints", f"{name}, to the layout"]
        for row, pair in zip(rows, accuracies(model, splits), strict=True):
            row += [f"{100 * value:.1f}" for value in pair]
    print(table(tuple(head), [tuple(row) for row in rows]))


if __name__ == "__main__":
    commands.main(run)
