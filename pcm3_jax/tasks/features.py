"""Sequence features of whole splits, from an encoder in evaluation mode (§3.4, §4.3)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import numpy as np
from jax import lax
from ml_collections import ConfigDict

from pcm3_jax.augment.pipeline import Batch, occluded_view
from pcm3_jax.data.feed import evaluation_batches
from pcm3_jax.data.recordings import Recordings
from pcm3_jax.models.pcm3 import PCM3
from pcm3_jax.runtime.parallel import AXIS, Devices

# (variables, poses (N, T, M, V, C)) → features (N, F).
Embedding = Callable[[Any, jax.Array], jax.Array]


def encoder_embedding(model: PCM3) -> Embedding:
    """The encoder's sequence features (N, 2H)."""
    return cast(Embedding, functools.partial(model.apply, method=PCM3.embed))


def raw_embedding(_: Any, poses: jax.Array) -> jax.Array:
    """The coordinates themselves (N, T * 150), as the data set stores them."""
    return poses.reshape(poses.shape[0], -1)


class Embedder:
    """Features (S, F) of a split's sequences under the central or random crops."""

    def __init__(self, embedding: Embedding, devices: Devices, config: ConfigDict) -> None:
        """Raises UserError if config.eval.batch_size does not divide over the devices."""
        devices.check_divides("eval.batch_size", config.eval.batch_size)
        self._devices = devices
        self._config = config
        self._embedding = embedding
        self._mapped: dict[tuple[bool, bool], Callable] = {}

    def central(self, variables: Any, recordings: Recordings) -> np.ndarray:
        """Features under the central crop; ``variables`` holds params and batch_stats."""
        return self._embed(variables, 0, recordings, central=True)

    def random(self, variables: Any, recordings: Recordings, draw: int) -> np.ndarray:
        """Features under the ``draw``-th random crop of every sequence."""
        return self._embed(variables, draw, recordings, central=False)

    def _embed(self, variables, draw: int, recordings: Recordings, *, central: bool):
        resident = recordings.frames is not None
        kind = (central, resident)
        if kind not in self._mapped:
            self._mapped[kind] = self._devices.map(
                functools.partial(self._one_batch, central=central), frames_sharded=not resident
            )
        size = self._devices.fitting(self._config.eval.batch_size, len(recordings))
        inputs = self._devices.replicate((variables, np.int32(draw)))
        features = [
            self._mapped[kind](inputs, frames, batch)
            for frames, batch in evaluation_batches(recordings, self._devices, size)
        ]
        return np.concatenate([np.asarray(f) for f in features])[: len(recordings)]

    def _one_batch(self, inputs, frames: jax.Array, batch: Batch, *, central: bool) -> jax.Array:
        variables, draw = inputs
        key = jax.random.fold_in(jax.random.key(self._config.seed), draw)
        poses = occluded_view(
            key, frames, batch.clips, batch.position, self._config.views, self._config.occlusion,
            central=central,
        )  # fmt: skip
        return lax.all_gather(self._embedding(variables, poses), AXIS, tiled=True)
