"""Action retrieval (Table 3): the label of the nearest training sequence by cosine."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from pcm3_jax.models.encoder import unit_length

# Queries compared with the whole gallery at once; bounds the (queries, gallery) products.
_QUERIES = 1024


@jax.jit
def _nearest(queries: jax.Array, gallery: jax.Array) -> jax.Array:
    return jnp.argmax(queries @ gallery.T, axis=1)


def nearest_neighbours(gallery: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Index of each query's nearest gallery row by cosine similarity.

    Args:
      gallery: (G, F) features.
      queries: (Q, F) features.

    Returns:
      (Q,) int32.
    """
    gallery = unit_length(jnp.asarray(gallery))
    rows = -(-len(queries) // _QUERIES) * _QUERIES
    # Padded to whole chunks, so that one compiled product serves all.
    padded = np.zeros((rows, queries.shape[1]), np.float32)
    padded[: len(queries)] = queries
    # The queries' lengths do not change which neighbour is nearest.
    chunks = [_nearest(chunk, gallery) for chunk in np.split(padded, rows // _QUERIES)]
    return np.concatenate([np.asarray(c) for c in chunks])[: len(queries)]


def knn_accuracy(
    gallery: np.ndarray, gallery_labels: np.ndarray, queries: np.ndarray, labels: np.ndarray
) -> float:
    """Share of queries whose nearest neighbour has their label, in [0, 1]."""
    return float((gallery_labels[nearest_neighbours(gallery, queries)] == labels).mean())
