"""A linear classifier of features from few labelled recordings, validated on held-out performers.

Logistic regression on features that are standardised and then whitened by the covariance within
classes, shrunk towards a multiple of the identity as in linear discriminant analysis.  With five
recordings a class the covariance is a guess, but it still tells apart how recordings of one action
differ and how actions do.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np

from pcm3_jax.errors import UserError
from pcm3_jax.inference.whitening import of_unit_length

# Inverse L2 penalties to choose from, in ascending order: each starts where the last ended.
STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1)
FOLDS = 5
_SHRINKAGE = 0.2
# Share of the recordings recognised rightly that the threshold turns into "nothing".
_MISSED = 0.05
# A recording may be mislabelled if its own class is farther than another one by this factor, and
# its held-out probability below this share of chance.
_FARTHER, _UNLIKELY = 1.5, 0.25


@dataclasses.dataclass(frozen=True)
class Recogniser:
    """A classifier, and what it says of recordings while they are held out.

    Attributes:
      classes: sorted names.
      kernel, bias: (F, classes) and (classes,) float32.
      threshold: 5 % of the held-out recordings that it recognises have a lower probability.
      strength: the chosen inverse L2 penalty.
      labels: (N,) indices of the recordings' classes.
      held_out: (N, classes) probabilities of each recording by a classifier that was not fitted
        to its fold; NaN if that one had no other recording of the class.
      by_performer: whether folds are made of performers, so that nobody is in two of them.
    """

    classes: tuple[str, ...]
    kernel: np.ndarray
    bias: np.ndarray
    threshold: float
    strength: float
    labels: np.ndarray
    held_out: np.ndarray
    by_performer: bool

    @property
    def validated(self) -> np.ndarray:
        """(N,) booleans: which recordings have held-out probabilities."""
        return ~np.isnan(self.held_out[:, 0])

    @property
    def accuracy(self) -> float:
        """Accuracy in [0, 1] on held-out recordings."""
        known = self.validated
        return float((self.held_out[known].argmax(1) == self.labels[known]).mean())

    @property
    def confusions(self) -> np.ndarray:
        """(classes, classes) counts of held-out recordings by true and recognised class."""
        counts = np.zeros((len(self.classes), len(self.classes)), int)
        known = self.validated
        np.add.at(counts, (self.labels[known], self.held_out[known].argmax(1)), 1)
        return counts


def fit(
    features: np.ndarray, labels: Sequence[Any], performers: Sequence[Hashable] | None = None
) -> Recogniser:
    """Fits a classifier; its strength is chosen by the likelihood of held-out recordings.

    Args:
      features: (N, F), of `Model.embed`.
      labels: N names.
      performers: who moves in each recording, N values; None if unknown.  With them, and where
        most recordings' actions are also done by somebody else, whole performers are held out.

    Raises:
      UserError: there are fewer than two classes, one recording of each class, or other numbers of
        labels or performers than of features.
    """
    for name, values in (("labels", labels), ("performers", performers)):
        if values is not None and len(values) != len(features):
            raise UserError(f"There are {len(values)} {name} for {len(features)} recordings.")
    classes, encoded = np.unique([str(label) for label in labels], return_inverse=True)
    if len(classes) < 2:
        raise UserError(
            f"All recordings have the label {str(classes[0])!r}, but a recogniser tells at least "
            "two apart: add recordings of another action."
        )
    if np.bincount(encoded).max() < 2:
        raise UserError(
            "There is one recording of each label, so that none can be held out to validate the "
            "recogniser: add a second one, if possible of another performer."
        )
    from threadpoolctl import threadpool_limits

    folds, by_performer = _folds(encoded, performers)
    # The matrices are small, and BLAS threads that wait for a busy core are many times slower.
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # early stopping is as good as another penalty
        held_out = _held_out(features, encoded, folds, len(classes))
        likelihoods = [_mean_log_probability(part, encoded) for part in held_out]
        best = int(np.argmax(likelihoods))
        *_, (kernel, bias) = _classifiers(features, encoded, STRENGTHS[: best + 1], len(classes))
    return Recogniser(
        classes=tuple(classes.tolist()),
        kernel=kernel.astype(np.float32),
        bias=bias.astype(np.float32),
        threshold=_threshold(held_out[best], encoded),
        strength=STRENGTHS[best],
        labels=encoded,
        held_out=held_out[best],
        by_performer=by_performer,
    )


def suspects(
    features: np.ndarray, recogniser: Recogniser, performers: Sequence[Hashable] | None = None
) -> list[tuple[int, int]]:
    """Recordings that may be mislabelled: (index, index of the nearest of another class).

    The nearest recording of the own class is much farther than one of another class, and the
    classifier, too, recognises that one and not the own while the recording is held out.  If
    performers were held out, only recordings of other performers count.

    Returns:
      The most suspicious first.
    """
    centred = features - features.mean(0)
    unit = of_unit_length(centred)
    distance = 1 - unit @ unit.T
    np.fill_diagonal(distance, np.inf)
    if recogniser.by_performer and performers is not None:
        who = np.unique([str(performer) for performer in performers], return_inverse=True)[1]
        distance[who[:, None] == who] = np.inf
    labels = recogniser.labels
    same = labels[:, None] == labels
    own = np.where(same, distance, np.inf).min(1)
    other = np.where(same, np.inf, distance)
    nearest = other.argmin(1)
    ratio = own / np.maximum(other.min(1), 1e-12)
    held_out = np.nan_to_num(recogniser.held_out)
    said, true = held_out.argmax(1), held_out[np.arange(len(labels)), labels]
    odd = recogniser.validated & np.isfinite(own) & (said == labels[nearest])
    odd &= (ratio > _FARTHER) & (true < _UNLIKELY / len(recogniser.classes))
    order = np.argsort(true / np.maximum(held_out.max(1), 1e-12), kind="stable")
    return [(int(i), int(nearest[i])) for i in order if odd[i]]


def _folds(
    labels: np.ndarray, performers: Sequence[Hashable] | None
) -> tuple[list[tuple[np.ndarray, np.ndarray]], bool]:
    """Pairs of indices (fitted, held out), and whether performers are held out."""
    from sklearn.model_selection import GroupKFold, StratifiedKFold

    if performers is not None:
        who = np.unique([str(performer) for performer in performers], return_inverse=True)[1]
        by_others = [bool((who[labels == c] != w).any()) for c, w in zip(labels, who, strict=True)]
        if np.mean(by_others) > 0.5:
            splitter = GroupKFold(min(FOLDS, who.max() + 1))
            return list(splitter.split(labels, labels, who)), True
    splitter = StratifiedKFold(
        min(FOLDS, int(np.bincount(labels).max())), shuffle=True, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes with fewer recordings than folds
        return list(splitter.split(labels, labels)), False


def _held_out(
    features: np.ndarray, labels: np.ndarray, folds: list, classes: int
) -> list[np.ndarray]:
    """For each strength, the held-out probabilities (N, classes), as in `Recogniser`."""
    found = [np.full((len(features), classes), np.nan) for _ in STRENGTHS]
    for fitted, held in folds:
        known = held[np.isin(labels[held], labels[fitted])]
        if len(np.unique(labels[fitted])) < 2 or not len(known):
            continue
        classifiers = _classifiers(features[fitted], labels[fitted], STRENGTHS, classes)
        for part, (kernel, bias) in zip(found, classifiers, strict=True):
            part[known] = _softmax(features[known] @ kernel + bias)
    return found


def _classifiers(
    features: np.ndarray, labels: np.ndarray, strengths: Sequence[float], classes: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Kernel (F, classes) and bias for each strength; classes without a label get a bias of −∞."""
    from sklearn.linear_model import LogisticRegression

    mean, whitening = _whitening(features.astype(np.float64), labels)
    inputs = (features - mean) @ whitening
    model = LogisticRegression(class_weight="balanced", tol=1e-3, max_iter=200, warm_start=True)
    for strength in strengths:
        model.set_params(C=strength).fit(inputs, labels)
        kernel, bias = model.coef_.T, model.intercept_
        if len(model.classes_) == 2:  # scikit-learn fits the second class against zero
            kernel, bias = np.pad(kernel, ((0, 0), (1, 0))), np.pad(bias, (1, 0))
        whole = np.zeros((features.shape[1], classes)), np.full(classes, -np.inf)
        whole[0][:, model.classes_] = whitening @ kernel
        whole[1][model.classes_] = bias - mean @ whitening @ kernel
        yield whole


def _whitening(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean (F,) and a matrix (F, R) that standardises and then whitens within classes.

    R is the rank of the features, at most N.
    """
    mean, scale = features.mean(0), features.std(0) + 1e-6
    standardised = (features - mean) / scale
    _, values, axes = np.linalg.svd(standardised, full_matrices=False)
    axes = axes[: max(1, int((values > 1e-6 * values[0]).sum()))]
    inputs = standardised @ axes.T
    members = labels[:, None] == np.unique(labels)
    centres = (members.T @ inputs) / members.sum(0)[:, None]
    within = inputs - members @ centres
    covariance = within.T @ within / len(within)
    # Without two recordings of any class nothing is known of it.
    level = np.trace(covariance) / len(covariance) or 1.0
    shrunk = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * level * np.eye(len(covariance))
    variances, directions = np.linalg.eigh(shrunk)
    return mean, (axes.T @ (directions / np.sqrt(variances))) / scale[:, None]


def _softmax(scores: np.ndarray) -> np.ndarray:
    odds = np.exp(scores - scores.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def _mean_log_probability(held_out: np.ndarray, labels: np.ndarray) -> float:
    """Of the true class, over the recordings that were validated; −∞ if there are none."""
    true = held_out[np.arange(len(labels)), labels]
    true = true[~np.isnan(true)]
    return float(np.log(np.maximum(true, 1e-12)).mean()) if len(true) else -np.inf


def _threshold(held_out: np.ndarray, labels: np.ndarray) -> float:
    """The probability that all but `_MISSED` of the held-out recordings' right classes reach."""
    known = ~np.isnan(held_out[:, 0])
    found = held_out[known]
    right = found.argmax(1) == labels[known]
    return float(np.quantile(found.max(1)[right], _MISSED)) if right.any() else 0.0
