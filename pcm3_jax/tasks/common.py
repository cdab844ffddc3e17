"""Code shared by the evaluations: reading data splits, loading the encoder, computing features.

In shapes, S is the number of sequences of a split and F the number of features of a sequence.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, cast

import jax
import numpy as np
from jax import lax

from pcm3_jax.augment.pipeline import occluded_view
from pcm3_jax.data import recordings
from pcm3_jax.data.batch import Batch
from pcm3_jax.data.feed import evaluation_batches
from pcm3_jax.data.recordings import Recordings
from pcm3_jax.errors import UserError
from pcm3_jax.inference import model_file
from pcm3_jax.inference.weights import Weights
from pcm3_jax.methods.method import encoder_flops
from pcm3_jax.methods.state import build_model, random_encoder
from pcm3_jax.models.pcm3 import PCM3
from pcm3_jax.runtime.parallel import AXIS, Devices
from pcm3_jax.settings import Config
from pcm3_jax.tasks.task import Cost, Task

# Settings that must be equal in an evaluation and in the training of its encoder.
_ENCODER_KEYS = (
    "model.hidden",
    "model.layers",
    "model.recurrence",
    "views.frames",
    "views.stream",
)
_WHOLE = np.iinfo(np.int32).max

# (variables, poses (N, T, M, V, C)) → features (N, F).
Embedding = Callable[[Any, jax.Array], jax.Array]


def read_split(
    config: Config, name: str, split: str, devices: Devices, *, untrimmed: bool = False
) -> Recordings:
    """One split of a data set in ``config.data.dir``; raises as `recordings.read`."""
    data = config.data
    return recordings.read(
        name,
        data.dir,
        split,
        # Whole videos are not truncated.
        max_frames=_WHOLE if untrimmed else data.max_frames,
        devices=devices,
        resident=untrimmed or data.feed == "resident",
        untrimmed=untrimmed,
    )


def read_splits(
    config: Config, devices: Devices, *, untrimmed: bool = False
) -> tuple[Recordings, Recordings]:
    """The training and the test split that a configuration names.

    Raises:
      UserError: a split is missing or of the wrong kind for the task, or the training split has no
        example of a class of the test split.
    """
    train_split, test_split = (
        read_split(config, config.data.name, split, devices, untrimmed=untrimmed)
        for split in ("train", "test")
    )
    unknown = _labels(test_split) - _labels(train_split)
    if unknown:
        names = ", ".join(train_split.classes[label] for label in sorted(unknown))
        raise UserError(
            f"{test_split.split} has actions with no example in {train_split.split}: {names}; "
            "use splits with the same classes."
        )
    return train_split, test_split


def _labels(split: Recordings) -> set[int]:
    """The labels of recordings, or of the actions in whole videos."""
    of_actions = [actions[:, 0] for actions in split.actions]
    return set(np.concatenate([split.label, *of_actions]).tolist())


def encoder_embedding(model: PCM3, config: Config) -> Embedding:
    """The encoder's sequence features (N, 2H), or (N, F) with ``config.eval.pooling``."""
    embed = functools.partial(model.apply, method=PCM3.embed, pooling=config.eval.pooling)
    return cast(Embedding, embed)


class Embedder:
    """Computes features (S, F) of a split's sequences, from their central or random crops."""

    def __init__(self, embedding: Embedding, devices: Devices, config: Config) -> None:
        """Uses the crops, occlusion, batch size and seed of the configuration.

        Raises:
          UserError: ``config.eval.batch_size`` does not divide over the devices.
        """
        devices.check_divides("eval.batch_size", config.eval.batch_size)
        self._embedding, self._devices, self._config = embedding, devices, config
        self._mapped: dict[tuple[bool, bool], Callable] = {}

    def central(self, variables: Any, recordings: Recordings) -> np.ndarray:
        """Features under the central crop; ``variables`` holds params and batch_stats."""
        return self._embed(variables, 0, recordings, central=True)

    def random(self, variables: Any, recordings: Recordings, draw: int) -> np.ndarray:
        """Features under the ``draw``-th random crop of every sequence."""
        return self._embed(variables, draw, recordings, central=False)

    def seconds(self, variables: Any, recordings: Recordings) -> float:
        """Seconds to encode one sequence, measured on one batch."""
        rows = min(self._config.eval.batch_size, len(recordings))
        batch = dataclasses.replace(recordings, length=recordings.length[:rows])
        # The first call compiles.
        for _ in range(2):
            start = time.perf_counter()
            self.central(variables, batch)
        return (time.perf_counter() - start) / rows

    def _embed(
        self, variables: Any, draw: int, recordings: Recordings, *, central: bool
    ) -> np.ndarray:
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

    def _one_batch(
        self, inputs: tuple[Any, jax.Array], frames: jax.Array, batch: Batch, *, central: bool
    ) -> jax.Array:
        variables, draw = inputs
        config = self._config
        key = jax.random.fold_in(jax.random.key(config.seed), draw)
        poses = occluded_view(
            key, frames, batch.clips, batch.position, config.views, config.occlusion,
            central=central,
        )  # fmt: skip
        return lax.all_gather(self._embedding(variables, poses), AXIS, tiled=True)


def encoder(config: Config, devices: Devices) -> tuple[Embedder, Any]:
    """The encoder to evaluate and its variables: from ``config.encoder``, or random.

    Raises:
      UserError: as in `Embedder` and `encoder_variables`.
    """
    embedding = encoder_embedding(build_model(config), config)
    return Embedder(embedding, devices, config), encoder_variables(config)


def encoder_variables(config: Config) -> dict[str, Any]:
    """{"params": {"encoder": …}, "batch_stats": {"encoder": …}} of the encoder to evaluate.

    If the run trained an encoder for each stream, this is the one of ``config.views.stream``.

    Raises:
      UserError: ``config.encoder`` is no trained model, or its encoder has other settings.
    """
    if not config.encoder:
        return random_encoder(config)
    tree = trained_weights(config).tree
    return {part: {"encoder": tree[part]["encoder"]} for part in ("params", "batch_stats")}


def trained_weights(config: Config) -> Weights:
    """The model in ``config.encoder``, whose encoder has this configuration's settings.

    Raises:
      UserError: it is no trained model, or its encoder has other settings.
    """
    weights = model_file.load(config.encoder, stream=config.views.stream).only
    theirs, ours = weights.config.flat(), config.flat()
    differing = [
        f"--config.{key}={theirs[key]}" for key in _ENCODER_KEYS if theirs[key] != ours[key]
    ]
    if differing:
        raise UserError(
            f"The encoder in {config.encoder} was trained with other settings: add "
            f"{' '.join(differing)}."
        )
    return weights


def top_k_accuracy(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Top-k accuracy in [0, 1] of scores (S, classes) for labels (S,)."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return float((best == labels[:, None]).any(1).mean())


class EncoderTask(Task):
    """A task that evaluates an encoder on the splits of a data set.

    Attributes:
      untrimmed: whether the task needs whole videos with annotated actions.
    """

    untrimmed: ClassVar[bool] = False

    def cost(self, config: Config, train_split: Recordings, test_split: Recordings) -> Cost:
        """Estimated cost of the task."""
        raise NotImplementedError

    def devices(self, config: Config) -> Devices:
        """The devices; raises UserError if a batch size is not a multiple of their number."""
        devices = Devices(config.mapping)
        devices.check_divides("eval.batch_size", config.eval.batch_size)
        return devices

    def read(self, config: Config, devices: Devices) -> tuple[Recordings, Recordings]:
        """The training and the test split; raises UserError like `read_splits`."""
        return read_splits(config, devices, untrimmed=self.untrimmed)

    def compared(self, config: Config) -> tuple[str, str] | None:
        if not any(metric.compared for metric in self.metrics):
            return None
        return "pretrained encoder" if config.encoder else "random encoder", config.views.stream

    def shown_encoder(self, config: Config, workdir: Path) -> str | None:
        return config.encoder

    def plan(self, config: Config, workdir: Path) -> Iterator[tuple[str, str]]:
        devices = self.devices(config)
        train_split, test_split = self.read(config, devices)
        yield "data", describe_splits(train_split, test_split)
        embedder, variables = encoder(config, devices)
        size = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        yield (
            "encoder",
            f"{config.encoder or 'random'}, {count(size)} parameters, "
            f"{encoder_flops(config) / 1e9:.3g} GFLOP per sequence",
        )
        cost = self.cost(config, train_split, test_split)
        if cost.training:
            yield "schedule", f"{cost.training.epochs} epochs, batch {cost.training.batch_size}"
        seconds = cost.encoded * embedder.seconds(variables, test_split)
        yield (
            "time",
            f"about {duration(seconds)}: as long as encoding {cost.encoded:,.0f} sequences of "
            f"{config.views.frames} frames",
        )


def describe_splits(train_split: Recordings, test_split: Recordings) -> str:
    """Sizes of a data set's splits, for --dry_run."""
    splits = train_split, test_split
    counts = " and ".join(f"{len(split):,} sequences in {split.split}" for split in splits)
    resident = [split.frames.nbytes for split in splits if split.frames is not None]
    place = f"{sum(resident) / 1e9:.3g} GB on each device" if resident else "read from disk"
    return f"{counts}; {len(train_split.classes)} classes; {place}"


def count(number: int) -> str:
    """Formats a number of parameters in thousands or millions."""
    return f"{number / 1e6:.3g} M" if number >= 1e6 else f"{number / 1e3:.3g} k"


def duration(seconds: float) -> str:
    """Formats a time in the largest unit that gives at least 2."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.2g} s"
