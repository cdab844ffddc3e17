"""What every evaluation starts from: the splits of a data set and an encoder."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from pcm3_jax.config import leaf
from pcm3_jax.data import recordings
from pcm3_jax.errors import UserError
from pcm3_jax.inference import model_file
from pcm3_jax.methods.state import build_model, random_encoder
from pcm3_jax.runtime.parallel import Devices
from pcm3_jax.tasks.features import Embedder, encoder_embedding
from pcm3_jax.tasks.knn import knn_accuracy

# What an evaluation must share with the training of the encoder that it takes.
_ENCODER_KEYS = (
    "model.hidden",
    "model.layers",
    "model.recurrence",
    "views.frames",
    "views.stream",
)
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
    unknown = _labels(test_split) - _labels(train_split)
    if unknown:
        names = ", ".join(train_split.classes[label] for label in sorted(unknown))
        raise UserError(
            f"{test_split.split} has actions of which {train_split.split} has no example: {names}; "
            "use splits with the same classes."
        )
    return train_split, test_split


def _labels(split: recordings.Recordings) -> set[int]:
    """Of recordings, or of the actions in whole videos."""
    of_actions = [actions[:, 0] for actions in split.actions]
    return set(np.concatenate([split.label, *of_actions]).tolist())


def encoder(config: ConfigDict, devices: Devices) -> tuple[Embedder, Any]:
    """The encoder to evaluate: that of ``config.encoder``, or random where that is ""."""
    model = build_model(config)
    return Embedder(encoder_embedding(model), devices, config), encoder_variables(config)


def encoder_variables(config: ConfigDict) -> dict[str, Any]:
    """{"params": {"encoder": …}, "batch_stats": {"encoder": …}} of the encoder to evaluate.

    Of a run of the task ``cmd``, which has an encoder of every stream, it is the one of
    ``config.views.stream``.

    Raises:
      UserError: ``config.encoder`` names no trained model, or one with another encoder.
    """
    if not config.encoder:
        return random_encoder(config)
    weights = model_file.load(Path(config.encoder), stream=config.views.stream)
    differing = [
        f"--config.{key}={theirs}"
        for key in _ENCODER_KEYS
        if (theirs := leaf(weights.config, key)) != leaf(config, key)
    ]
    if differing:
        raise UserError(
            f"The encoder in {config.encoder} was trained with other settings: add "
            f"{' '.join(differing)}."
        )
    return {part: {"encoder": weights.tree[part]["encoder"]} for part in ("params", "batch_stats")}


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
