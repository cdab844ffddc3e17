"""What every evaluation starts from: the splits of a data set and an encoder."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from pcm3_jax.checkpoint import load_encoder
from pcm3_jax.data import recordings
from pcm3_jax.downstream.features import Embedder, encoder_embedding
from pcm3_jax.downstream.retrieval import knn_accuracy
from pcm3_jax.errors import UserError
from pcm3_jax.parallel import Devices
from pcm3_jax.state import build_model, init_variables

_WHOLE = np.iinfo(np.int32).max


def read_splits(
    config: ConfigDict, devices: Devices, *, untrimmed: bool = False
) -> tuple[recordings.Recordings, recordings.Recordings]:
    """The training and the test split that a configuration names.

    Raises:
      UserError: they are not there or not as the task needs them; an action to be tested has no
        example to learn from.
    """
    data = config.data
    read = functools.partial(
        recordings.read,
        data.name,
        data.dir,
        # Whole videos are never cut.
        max_frames=_WHOLE if untrimmed else data.max_frames,
        devices=devices,
        resident=untrimmed or data.feed == "resident",
        untrimmed=untrimmed,
    )
    train_split, test_split = read(split="train"), read(split="test")
    unknown = set(test_split.label) - set(train_split.label)
    if unknown:
        names = ", ".join(train_split.classes[label] for label in sorted(unknown))
        raise UserError(
            f"{test_split.split} has actions of which {train_split.split} has no example: {names}; "
            "use splits with the same classes."
        )
    return train_split, test_split


def encoder(config: ConfigDict, devices: Devices) -> tuple[Embedder, Any]:
    """The encoder to evaluate: of the run ``config.encoder``, or random where that is ""."""
    model = build_model(config)
    return Embedder(encoder_embedding(model), devices, config), encoder_variables(config)


def encoder_variables(config: ConfigDict) -> Any:
    def random_encoder() -> Any:
        params, batch_stats = init_variables(build_model(config), jax.random.key(config.seed))
        return {
            "params": {"encoder": params["encoder"]},
            "batch_stats": {"encoder": batch_stats["encoder"]},
        }

    if config.encoder:
        template = jax.eval_shape(random_encoder)
        return load_encoder(Path(config.encoder), config, template)
    return random_encoder()


def retrieval_accuracy(
    embedder: Embedder,
    variables: Any,
    train_split: recordings.Recordings,
    test_split: recordings.Recordings,
) -> float:
    return knn_accuracy(
        embedder.central(variables, train_split),
        train_split.label,
        embedder.central(variables, test_split),
        test_split.label,
    )
