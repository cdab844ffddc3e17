"""The runs' encoders on the test split: nearest neighbours, confusion matrices and maps."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pcm3_jax.config import Config
from pcm3_jax.data.recordings import Recordings
from pcm3_jax.inference import shipped_models
from pcm3_jax.inference.model_file import CLASSIFIER_FILE
from pcm3_jax.report.runs import Run
from pcm3_jax.report.sequences import Pool, spread_labels
from pcm3_jax.runtime.files import read_arrays
from pcm3_jax.runtime.parallel import Devices
from pcm3_jax.tasks import common
from pcm3_jax.tasks.knn import nearest_neighbours
from pcm3_jax.tasks.linear_probe import SCORES_FILE

# Maximal number of sequences on a map, and frames of each one's skeleton.
_MOST_PLACES, _PLACE_FRAMES = 1200, 16
_QUERIES, _NEIGHBOURS, _GALLERY_FRAMES = 12, 5, 40


@dataclasses.dataclass(frozen=True)
class Embedded:
    """Both splits of a data set with an encoder's features.

    Attributes:
      train, test: the splits.
      gallery, queries: their features (S, F) and (Q, F).
      nearest: (Q,) index of each query's nearest sequence in the gallery.
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
        """``data_dir`` replaces ``config.data.dir`` if it is not None."""
        self._data_dir = data_dir
        self._read: dict[str, tuple[Recordings, Recordings]] = {}

    def of(self, config: Config) -> tuple[Recordings, Recordings]:
        """The training and the test split of a configuration.

        Raises:
          UserError: the data set does not exist.
        """
        if self._data_dir is not None:
            config = config.copy()
            config.data.dir = self._data_dir
        key = json.dumps([config.data.to_dict(), config.mapping])
        if key not in self._read:
            self._read[key] = common.read_splits(config, Devices(config.mapping))
        return self._read[key]


def embed(run: Run, splits: Splits) -> Embedded:
    """Features of the run's data by the run's encoder, identical to those of its evaluation.

    Raises:
      UserError: the encoder or the data set does not exist, or they do not fit together.
    """
    config = _evaluated(run)
    train, test = splits.of(config)
    embedder, variables = common.encoder(config, Devices(config.mapping))
    gallery, queries = (embedder.central(variables, split) for split in (train, test))
    return Embedded(train, test, gallery, queries, nearest_neighbours(gallery, queries))


def reason_for_none(run: Run) -> str | None:
    """Why the report cannot show a run's encoder; None if it can."""
    if run.task.shown_encoder(run.config, run.path) is None:
        return f"{run.name}: task {run.config.task} has no encoder to show."
    if run.task.pretrains:
        return None if run.checkpoints else f"{run.name}: no checkpoint has been saved yet."
    named = run.config.encoder
    if named and named not in shipped_models.MODELS and not Path(named).exists():
        return f"{run.name}: its encoder {named} does not exist."
    return None


def shown_under(runs: list[Run]) -> dict[str, str]:
    """For each run with an encoder to show, the run under which the report shows it, by names.

    Encoders that give the same features of the same data are shown once, under the pretraining run
    if it is among the runs, otherwise under the first evaluation.  Weights are compared, not
    paths: an evaluation may name a checkpoint, an exported file or a copy.

    Raises:
      UserError: an encoder cannot be read, or does not fit its run.
    """
    first: dict[str, str] = {}
    found = {}
    for run in sorted(runs, key=lambda run: not run.task.pretrains):
        if reason_for_none(run) is None:
            found[run.name] = first.setdefault(_fingerprint(run), run.name)
    return found


def _fingerprint(run: Run) -> str:
    """A hash of what the features of a run's encoder depend on: weights, data and settings."""
    config = _evaluated(run)
    data, views, model, evaluation = config.data, config.views, config.model, config.eval
    settings = [
        data.name, data.max_frames, views.stream, views.frames, views.eval_crop_ratio,
        model.recurrence, model.dtype, model.precision, evaluation.layers, evaluation.pooling,
        config.occlusion.to_dict(),
    ]  # fmt: skip
    digest = hashlib.sha256(json.dumps(settings).encode())
    for leaf in jax.tree.leaves(common.encoder_variables(config)):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _evaluated(run: Run) -> Config:
    """The configuration of an evaluation of the encoder that a run shows."""
    config = run.config.copy()
    config.encoder = run.task.shown_encoder(config, run.path) or ""
    return config


def confusion(labels: np.ndarray, found: np.ndarray, classes: list[str], by: str) -> dict[str, Any]:
    """Counts of (label, found label), rows the labels; classes that do not occur are left out.

    Args:
      labels, found: (Q,) class numbers.
      classes: names of all classes.
      by: the classifier's name, for the caption.
    """
    present, cells = np.unique([labels, found], return_inverse=True)
    matrix = np.zeros((len(present), len(present)), int)
    np.add.at(matrix, tuple(cells), 1)
    return {"by": by, "classes": [classes[i] for i in present], "matrix": matrix.tolist()}


def classifier_confusion(run: Run) -> dict[str, Any] | None:
    """The confusion matrix of a finished linear evaluation; None for other runs.

    Raises:
      UserError: its files cannot be read.
    """
    if not run.results or not (run.path / SCORES_FILE).exists():
        return None
    again = "run the evaluation again"
    scores = read_arrays(run.path / SCORES_FILE, ("scores", "label"), again)
    classes = read_arrays(run.path / CLASSIFIER_FILE, ("classes",), again)["classes"].tolist()
    labels, found = scores["label"], scores["scores"].argmax(1)
    return confusion(labels, found, classes, "linear classifier")


def class_map(embedded: Embedded, pool: Pool) -> dict[str, Any]:
    """A 2-D map of the test split, with each sequence's skeleton and nearest neighbour."""
    test, train = embedded.test, embedded.train
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


def plane(features: np.ndarray) -> tuple[np.ndarray, str]:
    """Projects features (S, F) to 2-D by cosine similarity: t-SNE, or PCA of a few points.

    Returns:
      (S, 2), each axis within [0, 1], and the name of the method.
    """
    unit = _unit(features)
    left, values, _ = np.linalg.svd(unit - unit.mean(0), full_matrices=False)
    # Padded, since a single sequence has fewer than two components.
    components = np.pad((left * values)[:, :50], ((0, 0), (0, 2)))
    # t-SNE is meaningless for fewer points.
    if len(features) < 10:
        places, method = components[:, :2], "PCA"
    else:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits

        tsne = TSNE(perplexity=min(30, (len(features) - 1) / 3), init="pca", random_state=0)
        # The thousand iterations of t-SNE are too short to gain from several threads.
        with threadpool_limits(1):
            places, method = tsne.fit_transform(components), "t-SNE"
    span = np.ptp(places, axis=0)
    return (places - places.min(0)) / np.where(span > 0, span, 1), method


def gallery(embedded: Embedded, pool: Pool) -> list[dict[str, Any]]:
    """Queries with their nearest training sequences; at most half have a wrong nearest one."""
    test, train = embedded.test, embedded.train
    features, queries = _unit(embedded.gallery), _unit(embedded.queries)
    rows = []
    for index in _queries(embedded.right, test.label):
        cosine = features @ queries[index]
        neighbours = [
            {
                **_shown(train, i, pool),
                "cosine": round(float(cosine[i]), 4),
                "right": bool(train.label[i] == test.label[index]),
            }
            for i in np.argsort(-cosine, kind="stable")[:_NEIGHBOURS]
        ]
        rows.append({**_shown(test, index, pool), "neighbours": neighbours})
    return rows


def _queries(right: np.ndarray, labels: np.ndarray) -> list[int]:
    """Indices of queries of many classes; at most half have a wrong nearest neighbour."""
    order = np.random.default_rng(0).permutation(len(right))
    mistakes = spread_labels(order[~right[order]], labels)[: _QUERIES // 2]
    others = spread_labels(order[right[order]], labels)[: _QUERIES - len(mistakes)]
    # Sorted by class for display.
    return sorted([*others, *mistakes], key=lambda i: (labels[i], not right[i]))


def _unit(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)


def _shown(recordings: Recordings, index: int, pool: Pool) -> dict[str, Any]:
    return {
        "sequence": pool.add_recording(recordings, int(index), _GALLERY_FRAMES),
        "name": recordings.name[index],
        "label": recordings.classes[recordings.label[index]],
    }
