"""Whitening of features: makes cosine similarities of a model's features comparable.

A contrastive encoder's features share a large mean and a few strong directions, which dominate
cosine similarities.  Whitening with statistics of many recordings removes both.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Directions weaker than this share of the strongest are not raised to its level, since they are
# mostly noise.
_FLOOR = 0.03


class Whitening(NamedTuple):
    """An affine map of features (…, F), followed by division by their L2 norm.

    Attributes:
      mean: (F,).
      matrix: (F, F), symmetric; its scale has no effect.
    """

    mean: np.ndarray
    matrix: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Whitened features (…, F) of unit length."""
        return of_unit_length((features - self.mean) @ self.matrix)


def fit_whitening(features: np.ndarray) -> Whitening:
    """The whitening of features (S, F), best with S of several thousand."""
    mean = features.mean(axis=0, dtype=np.float64)
    _, spread, directions = np.linalg.svd(features - mean, full_matrices=False)
    gain = (1 + _FLOOR) * spread[0] / (spread + _FLOOR * spread[0])
    # S < F samples leave directions without spread, which get the largest gain like other noise.
    rest = (1 + 1 / _FLOOR) * (np.eye(len(mean)) - directions.T @ directions)
    matrix = (directions.T * gain) @ directions + rest
    return Whitening(mean.astype(np.float32), matrix.astype(np.float32))


def of_unit_length(features: np.ndarray) -> np.ndarray:
    """Features (…, F) divided by their L2 norm; a zero vector stays zero."""
    return features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
