"""What the runs' encoders make of the test split: neighbours, confusions and a map."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from pcm3_jax.config import PRETRAINING
from pcm3_jax.data.recordings import Recordings
from pcm3_jax.errors import UserError
from pcm3_jax.report.projection import plane
from pcm3_jax.report.runs import Run
from pcm3_jax.report.sequences import Pool
from pcm3_jax.runtime.parallel import Devices
from pcm3_jax.tasks import inputs
from pcm3_jax.tasks.knn import nearest_neighbours

_WITH_ENCODER = (*PRETRAINING, "linear_eval", "retrieval")
# Sequences on a map, and the frames of those that it shows one at a time.
_MOST_PLACES, _PLACE_FRAMES = 1200, 16
_QUERIES, _NEIGHBOURS, _GALLERY_FRAMES = 12, 5, 40


@dataclasses.dataclass(frozen=True)
class Embedded:
    """Both splits of a data set as an encoder sees them.

    Attributes:
      train, test: the splits.
      gallery, queries: their features (S, F) and (Q, F).
      nearest: (Q,) each query's nearest sequence of the gallery.
    """

    train: Recordings
    test: Recordings
    gallery: np.ndarray
    queries: np.ndarray
    nearest: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """(Q,) whether the nearest sequence has the query's label."""
        return self.train.label[self.nearest] == self.test.label


class Splits:
    """The splits of data sets, each read once."""

    def __init__(self, data_dir: str | None) -> None:
        """``data_dir`` stands in for ``config.data.dir`` where it is not None."""
        self._data_dir = data_dir
        self._read: dict[str, tuple[Recordings, Recordings]] = {}

    def of(self, config: ConfigDict) -> tuple[Recordings, Recordings]:
        """The training and the test split of a configuration.

        Raises:
          UserError: they are not there.
        """
        if self._data_dir is not None:
            config = ConfigDict(config.to_dict())
            config.data.dir = self._data_dir
        key = json.dumps([config.data.to_dict(), config.mapping])
        if key not in self._read:
            self._read[key] = inputs.read_splits(config, Devices(config.mapping))
        return self._read[key]


def embed(run: Run, splits: Splits) -> Embedded:
    """Features of the run's data under the run's encoder, exactly as its evaluation has them.

    Raises:
      UserError: the encoder or the data set is not there, or does not fit.
    """
    config = run.config
    if config.task in PRETRAINING:
        config = ConfigDict(config.to_dict())
        config.encoder = str(run.path)
    train, test = splits.of(config)
    embedder, variables = inputs.encoder(config, Devices(config.mapping))
    gallery, queries = (embedder.central(variables, split) for split in (train, test))
    return Embedded(train, test, gallery, queries, nearest_neighbours(gallery, queries))


def reason_for_none(run: Run, runs: list[Run]) -> str | None:
    """Why the report has no part about a run's encoder; None where it has one."""
    task = run.config.task
    if task not in _WITH_ENCODER:
        return f"{run.name}: a run of {task} leaves no encoder to look at."
    if task in PRETRAINING:
        return None if run.checkpoints else f"{run.name}: no checkpoint has been saved yet."
    encoder = Path(run.config.encoder)
    if run.config.encoder and not encoder.exists():
        return f"{run.name}: its encoder, {encoder}, is not there."
    twin = next((other for other in runs if _same_encoder(run, other)), None)
    return f"{run.name}: its encoder is that of {twin.name}." if twin else None


def _same_encoder(run: Run, other: Run) -> bool:
    ours, theirs = run.config, other.config
    return (
        theirs.task in PRETRAINING
        and bool(ours.encoder)
        and Path(ours.encoder).resolve() == other.path.resolve()
        and ours.occlusion.kind == "none"
        and ours.views.stream == theirs.views.stream
        and ours.data.name == theirs.data.name
        and bool(other.checkpoints)
    )


def confusion(labels: np.ndarray, found: np.ndarray, classes: list[str], by: str) -> dict[str, Any]:
    """Counts of (label, found label), rows the labels; classes that do not occur are left out.

    Args:
      labels, found: (Q,) class numbers.
      classes: names of all classes.
      by: what found them, for the caption.
    """
    present = np.unique(np.concatenate([labels, found]))
    matrix = np.zeros((len(classes), len(classes)), int)
    np.add.at(matrix, (labels, found), 1)
    return {
        "by": by,
        "classes": [classes[i] for i in present],
        "matrix": matrix[np.ix_(present, present)].tolist(),
    }


def classifier_confusion(run: Run) -> dict[str, Any] | None:
    """Of a finished linear evaluation by its classifier; None for other runs.

    Raises:
      UserError: its files cannot be read.
    """
    if run.config.task != "linear_eval" or run.results is None:
        return None
    try:
        with np.load(run.path / "scores.npz", allow_pickle=False) as file:
            found, labels = file["scores"].argmax(1), file["label"]
        with np.load(run.path / "classifier.npz", allow_pickle=False) as file:
            classes = file["classes"].tolist()
    except Exception as error:  # a damaged archive raises anything
        raise UserError(
            f"The scores and the classifier in {run.path} cannot be read ({error}): run its "
            "command again."
        ) from error
    return confusion(labels, found, classes, "linear classifier")


def class_map(embedded: Embedded, pool: Pool) -> dict[str, Any]:
    """The test split on a plane, with a skeleton and the nearest neighbour of every sequence."""
    test, train = embedded.test, embedded.train
    chosen = np.arange(len(test))
    if len(test) > _MOST_PLACES:
        chosen = np.sort(np.random.default_rng(0).permutation(len(test))[:_MOST_PLACES])
    places, method = plane(embedded.queries[chosen])
    present = np.unique(test.label[chosen])
    return {
        "method": method,
        "of": len(test),
        "classes": [test.classes[i] for i in present],
        "x": places[:, 0].round(4).tolist(),
        "y": places[:, 1].round(4).tolist(),
        "label": np.searchsorted(present, test.label[chosen]).tolist(),
        "name": [test.name[i] for i in chosen],
        "nearest": [train.classes[train.label[i]] for i in embedded.nearest[chosen]],
        "right": embedded.right[chosen].tolist(),
        "sequence": [pool.add_recording(test, i, _PLACE_FRAMES) for i in chosen.tolist()],
    }


def gallery(embedded: Embedded, pool: Pool) -> list[dict[str, Any]]:
    """Queries, up to half of them mistakes, with their nearest sequences of the training split."""
    test, train = embedded.test, embedded.train
    rows = []
    for index in _queries(embedded.right, test.label):
        cosine = _cosine(embedded.gallery, embedded.queries[index])
        best = np.argsort(-cosine, kind="stable")[:_NEIGHBOURS]
        rows.append(
            {
                **_shown(test, index, pool),
                "neighbours": [
                    {
                        **_shown(train, i, pool),
                        "cosine": round(float(cosine[i]), 4),
                        "right": bool(train.label[i] == test.label[index]),
                    }
                    for i in best
                ],
            }
        )
    return rows


def _queries(right: np.ndarray, labels: np.ndarray) -> list[int]:
    """Mistakes and others in turn, each kind of as many classes as can be."""
    order = np.random.default_rng(0).permutation(len(right))
    mistakes = _spread(order[~right[order]], labels)
    others = _spread(order[right[order]], labels)
    half = min(_QUERIES // 2, len(mistakes))
    chosen = [*others[: _QUERIES - half], *mistakes[:half]]
    # By class, for reading.
    return sorted(chosen, key=lambda i: (labels[i], not right[i]))


def _spread(indices: np.ndarray, labels: np.ndarray) -> list[int]:
    """The indices so that all classes come once before any comes twice, and so on."""
    seen: dict[int, int] = {}
    rounds = []
    for index in indices.tolist():
        count = seen[labels[index]] = seen.get(labels[index], 0) + 1
        rounds.append((count, index))
    return [index for _, index in sorted(rounds, key=lambda pair: pair[0])]


def _cosine(features: np.ndarray, query: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(features, axis=1) * np.linalg.norm(query)
    return features @ query / np.maximum(lengths, 1e-12)


def _shown(recordings: Recordings, index: int, pool: Pool) -> dict[str, Any]:
    return {
        "sequence": pool.add_recording(recordings, int(index), _GALLERY_FRAMES),
        "name": recordings.name[index],
        "label": recordings.classes[recordings.label[index]],
    }
