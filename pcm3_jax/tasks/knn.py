"""Task "retrieval" (Table 3): 1-NN classification by cosine similarity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pcm3_jax.data.recordings import Recordings
from pcm3_jax.data.skeleton import Array
from pcm3_jax.settings import Config
from pcm3_jax.tasks.common import Embedder, EncoderTask, encoder
from pcm3_jax.tasks.task import Cost, Metric, Results

# Gallery rows and queries per block, which bounds the memory: 32,768 rows of 2048 features take
# 268 MB, and their products with 1024 queries 134 MB.
_QUERIES, _GALLERY = 1024, 32_768


def nearest_neighbours(gallery: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Index of each query's nearest gallery row by cosine similarity; the first in a tie.

    Args:
      gallery: (G, F) features; may be a memory map larger than memory.
      queries: (Q, F) features.

    Returns:
      (Q,) int64.
    """
    index = np.zeros(len(queries), np.int64)
    similarity = np.full(len(queries), -np.inf, np.float32)
    for start in range(0, len(gallery), _GALLERY):
        block: Array = np.asarray(gallery[start : start + _GALLERY], np.float32)
        # Queries need no normalisation: their norm does not change the nearest neighbour.
        block = block / np.maximum(np.linalg.norm(block, axis=1, keepdims=True), 1e-12)
        if jax.default_backend() != "cpu":
            block = jnp.asarray(block)
        for first in range(0, len(queries), _QUERIES):
            rows = slice(first, first + _QUERIES)
            found, where = _nearest(queries[rows], block)
            nearer = found > similarity[rows]
            similarity[rows] = np.where(nearer, found, similarity[rows])
            index[rows] = np.where(nearer, start + where, index[rows])
    return index


def _nearest(queries: np.ndarray, gallery: np.ndarray | jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """Maximum and argmax (Q,) of each query's products with the gallery's rows."""
    if isinstance(gallery, jax.Array):
        return jax.device_get(_nearest_on_device(queries, gallery))
    # On CPU, NumPy's BLAS is faster than XLA.
    products = queries @ gallery.T
    where = products.argmax(1)
    return products[np.arange(len(where)), where], where


@jax.jit
def _nearest_on_device(queries: jax.Array, gallery: jax.Array) -> tuple[jax.Array, jax.Array]:
    products = queries @ gallery.T
    return products.max(1), products.argmax(1)


def knn_accuracy(
    gallery: np.ndarray, gallery_labels: np.ndarray, queries: np.ndarray, labels: np.ndarray
) -> float:
    """Share of queries whose nearest neighbour has the same label, in [0, 1]."""
    return float((gallery_labels[nearest_neighbours(gallery, queries)] == labels).mean())


def retrieval_accuracy(
    embedder: Embedder, variables: Any, train_split: Recordings, test_split: Recordings
) -> float:
    """1-NN accuracy of an encoder in [0, 1], with the training split as the gallery."""
    return knn_accuracy(
        embedder.central(variables, train_split),
        train_split.label,
        embedder.central(variables, test_split),
        test_split.label,
    )


class Retrieval(EncoderTask):
    """1-NN accuracy of an encoder."""

    name = "retrieval"
    metrics = (Metric("knn_accuracy", "1-NN", "%", compared=True),)
    occludes = True

    def run(self, config: Config, workdir: Path) -> Results:
        devices = self.devices(config)
        embedder, variables = encoder(config, devices)
        train_split, test_split = self.read(config, devices)
        return {"knn_accuracy": retrieval_accuracy(embedder, variables, train_split, test_split)}

    def cost(self, config: Config, train_split: Recordings, test_split: Recordings) -> Cost:
        return Cost(len(train_split) + len(test_split))
