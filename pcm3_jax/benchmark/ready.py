"""Measures the encoders that come with the package on real recordings that they never saw.

python -m tfds_builders.build intellirehabds/cross_subject --manual_dir=DOWNLOAD --data_dir=data
python -m tfds_builders.build own_skeletons/kinect_v1_20 --manual_dir=KINDER_GATOR --data_dir=data
python -m pcm3_jax.benchmark.ready [--data_dir=data] [--workdir=runs/ready] [--frozen]

prints the table of docs/model_card.md.  Encoders are frozen, except in the last rows, which train
from the encoders and from random weights; --frozen leaves those rows out.  Trained rows are kept in
the workdir, so that an interrupted measurement goes on.  The encoders have seen generated skeletons
only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import pcm3_jax
from pcm3_jax.config import Config, default_config
from pcm3_jax.data import recordings
from pcm3_jax.data.skeleton import missing_joints
from pcm3_jax.inference import model_file, recogniser
from pcm3_jax.inference.shipped_models import available
from pcm3_jax.registry import TASKS
from pcm3_jax.runtime import commands
from pcm3_jax.runtime.parallel import Devices
from pcm3_jax.tasks.common import top_k_accuracy
from pcm3_jax.tasks.coordinates import ridge_scores
from pcm3_jax.tasks.knn import knn_accuracy
from pcm3_jax.tasks.task import run_task
from pcm3_jax.train.workdir import RESULTS_FILE

IRDS, KINDER_GATOR = "intellirehabds/cross_subject", "own_skeletons/kinect_v1_20"
SETS = {"IntelliRehabDS": IRDS, "Kinder-Gator": KINDER_GATOR}
# Of ridge regression on standardised features, chosen on five folds of the training performers;
# with few examples the second one.
PENALTIES = (10.0, 100.0, 1e3, 1e4)
FOLDS = 5
FEW, DRAWS = 5, 10
SEEDS = (0, 1, 2)
FRACTIONS = (0.01, 0.1)
_FRAMES = 16  # that raw coordinates are resampled to


class Split(NamedTuple):
    """Normalised skeletons, a list of S arrays (T, M, 25, 3), labels and performers (S,)."""

    skeletons: list[np.ndarray]
    label: np.ndarray
    performer: np.ndarray


def read(name: str, data_dir: str) -> dict[str, Split]:
    """The splits of a built data set; raises UserError if it is not built."""
    devices, splits = Devices(default_config().mapping), {}
    for split in ("train", "test"):
        read = recordings.read(name, data_dir, split, 300, devices, resident=False)
        examples = read.examples()
        splits[split] = Split(
            [e["skeleton"] for e in examples],
            read.label,
            np.array([e["subject"] for e in examples]),
        )
    return splits


def raw_coordinates(skeletons: list[np.ndarray]) -> np.ndarray:
    """Features (S, 16 · 150): coordinates at 16 even times, interpolated."""
    rows = []
    for skeleton in skeletons:
        flat = skeleton.reshape(len(skeleton), -1)
        times = ((np.arange(_FRAMES) + 0.5) * len(flat) / _FRAMES - 0.5).clip(0)
        left = times.astype(int)
        right, weight = np.minimum(left + 1, len(flat) - 1), (times - left)[:, None]
        rows.append((flat[left] * (1 - weight) + flat[right] * weight).ravel())
    return np.array(rows, np.float32)


def frozen(features: dict[str, np.ndarray], splits: dict[str, Split]) -> dict[str, float]:
    """Accuracies in [0, 1] of features (S, F), by the column of the table."""
    train, test = features["train"], features["test"]
    label, truth = splits["train"].label, splits["test"].label
    few = []
    for draw in range(DRAWS):
        rng = np.random.default_rng(draw)
        classes = [rng.permutation(np.flatnonzero(label == c))[:FEW] for c in np.unique(label)]
        ids = np.concatenate(classes)
        few.append(linear(train[ids], label[ids], test, truth, PENALTIES[1]))
    penalty = best_penalty(train, label, splits["train"].performer)
    return {
        "1-NN": knn_accuracy(train, label, test, truth),
        "linear": linear(train, label, test, truth, penalty),
        "fit": fitted(features, splits, np.arange(len(label))),
        f"{FEW} a class": float(np.mean(few)),
    }


def fitted(features: dict[str, np.ndarray], splits: dict[str, Split], ids: np.ndarray) -> float:
    """Accuracy of what `Model.fit` fits to the features (S, F) of some training recordings."""
    train, test = splits["train"], splits["test"]
    found = recogniser.fit(
        features["train"][ids], train.label[ids].tolist(), train.performer[ids].tolist()
    )
    scores = features["test"] @ found.kernel + found.bias
    return float(np.mean(np.array(found.classes, int)[scores.argmax(1)] == test.label))


def linear(
    train: np.ndarray, label: np.ndarray, test: np.ndarray, truth: np.ndarray, penalty: float
) -> float:
    """Accuracy of ridge regression on standardised features (S, F)."""
    mean, spread = train.mean(0), train.std(0) + 1e-6
    classes = int(max(label.max(), truth.max())) + 1
    scores = ridge_scores((train - mean) / spread, label, (test - mean) / spread, classes, penalty)
    return top_k_accuracy(scores, truth, 1)


def best_penalty(train: np.ndarray, label: np.ndarray, performer: np.ndarray) -> float:
    """The one of `PENALTIES` with the highest accuracy on held-out performers."""
    fold = np.unique(performer, return_inverse=True)[1] % FOLDS
    accuracies = [
        np.mean(
            [
                linear(train[fold != f], label[fold != f], train[fold == f], label[fold == f], p)
                for f in range(FOLDS)
            ]
        )
        for p in PENALTIES
    ]
    return PENALTIES[int(np.argmax(accuracies))]


def frozen_rows(data_dir: str) -> Iterator[tuple[str, ...]]:
    """Rows (data, features, 1-NN, linear, fit, five a class)."""
    models = [name for name in available() if name != "irds"]
    for title, name in SETS.items():
        splits = read(name, data_dir)
        raw = {part: raw_coordinates(split.skeletons) for part, split in splits.items()}
        found = {"raw coordinates": raw}
        for model in map(pcm3_jax.load, models):
            found[models[len(found) - 1]] = embedded(model, splits)
        for what, features in found.items():
            accuracies = frozen(features, splits)
            yield (title, what, *(f"{100 * value:.1f}" for value in accuracies.values()))


def embedded(model: pcm3_jax.Model, splits: dict[str, Split]) -> dict[str, np.ndarray]:
    """Features (S, F) of each split."""
    return {
        part: model.embed(
            split.skeletons,
            [missing_joints(skeleton) for skeleton in split.skeletons],
            normalize=False,
        )
        for part, split in splits.items()
    }


def fraction_rows(data_dir: str) -> Iterator[tuple[str, ...]]:
    """Rows as of `trained_rows`: what `Model.fit` makes of a share of the labels, encoders frozen.

    The labelled recordings are those of the task finetune with the same seed.
    """
    splits = read(IRDS, data_dir)
    features = embedded(pcm3_jax.load("base"), splits)
    total = len(splits["train"].label)
    for fraction in FRACTIONS:
        draws = [np.random.default_rng((seed, 0)).permutation(total) for seed in SEEDS]
        count = max(1, round(fraction * total))
        values = [100 * fitted(features, splits, np.sort(draw[:count])) for draw in draws]
        yield f"fit, fraction={fraction}", "base, frozen", _spread(values, "%")


def _spread(values: list[float], unit: str) -> str:
    return f"{np.mean(values):.1f} {unit} (± {np.std(values):.1f})"


def trained_rows(data_dir: str, workdir: Path) -> Iterator[tuple[str, ...]]:
    """Rows (task, start, result) of trainings from an encoder and from random weights."""
    for task, key, unit, changes in trainings():
        for start in ("", "base"):
            values = [
                100 * value if unit == "%" else value
                for value in (
                    _run(task, key, start, changes, seed, data_dir, workdir) for seed in SEEDS
                )
            ]
            what = ", ".join(f"{k.rpartition('.')[2]}={v}" for k, v in changes.items())
            yield f"{task}, {what}", start or "random weights", _spread(values, unit)


def trainings() -> list[tuple[str, str, str, dict[str, Any]]]:
    """(task, metric, unit, settings) of the trained rows."""
    finetuned = [
        ("finetune", "top1", "%", {"finetune.fraction": fraction}) for fraction in FRACTIONS
    ]
    predicted = [
        ("motion_prediction", "mpjpe", "mm", {"motion_prediction.frozen": frozen})
        for frozen in (True, False)
    ]
    return [*finetuned, *predicted]


def _run(
    task: str, key: str, start: str, changes: dict[str, Any], seed: int, data_dir: str, root: Path
) -> float:
    config = training_config(task, start, changes, seed, data_dir)
    names = [task, start or "random", *map(str, changes.values()), str(seed)]
    workdir = root / "_".join(names)
    if not (workdir / RESULTS_FILE).exists():
        run_task(TASKS[task], config, workdir)
    return float(json.loads((workdir / RESULTS_FILE).read_text(encoding="utf-8"))[key])


def training_config(
    task: str, start: str, changes: dict[str, Any], seed: int, data_dir: str
) -> Config:
    """The configuration of a trained row: the encoder's own, of the motion stream."""
    config = default_config()
    config.update_from_flattened_dict(
        {
            **model_file.load("base", stream="motion").only.config.flat(),
            "task": task,
            "encoder": start,
            "seed": seed,
            "data.name": IRDS,
            "data.dir": data_dir,
            "data.extra": (),
            # As in configs/irds.py.
            "finetune.name": "adamw",
            "finetune.learning_rate": 1e-3,
            "finetune.batch_size": 16,
            "finetune.draws": 1,
            "motion_prediction.hidden": 128,
            "motion_prediction.epochs": 20,
            "motion_prediction.decay_epochs": (15,),
            **changes,
        }
    )
    config.check()
    return config


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def run(argv: list[str]) -> None:
    """Runs the command; raises UserError if a data set is not built."""
    parser = commands.Arguments(prog="python -m pcm3_jax.benchmark.ready", description=__doc__)
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--workdir", type=Path, default=Path("runs/ready"))
    parser.add_argument("--frozen", action="store_true", help="only frozen encoders")
    flags = parser.parse_args(argv)
    head = ("data", "features", "1-NN", "linear", "fit", f"{FEW} a class")
    print(table(head, list(frozen_rows(flags.data_dir))), flush=True)
    if not flags.frozen:
        rows = [
            *fraction_rows(flags.data_dir),
            *trained_rows(flags.data_dir, flags.workdir),
        ]
        print("\n" + table(("task on IntelliRehabDS", "start", "result"), rows))


if __name__ == "__main__":
    commands.main(run)
