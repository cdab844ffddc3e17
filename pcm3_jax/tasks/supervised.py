"""Training an encoder with something on top of it on labels: one step for every such task."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from pcm3_jax.data.batch import Clips
from pcm3_jax.data.feed import Samples, sample_batches
from pcm3_jax.data.recordings import Recordings
from pcm3_jax.data.skeleton import COORDINATES, JOINTS, PERSONS, flatten_frames, poses_at
from pcm3_jax.methods.optimizer import build_optimizer
from pcm3_jax.methods.pcm3 import apply_gradients
from pcm3_jax.methods.state import State
from pcm3_jax.models.encoder import Encoder
from pcm3_jax.runtime.parallel import AXIS, Devices
from pcm3_jax.settings import Config, Training
from pcm3_jax.tasks.common import EncoderTask
from pcm3_jax.train.loop import Schedule, train

# Poses to initialise with: shapes of variables do not depend on the number of frames.
POSES = np.zeros((1, 2, PERSONS, JOINTS, COORDINATES), np.float32)
# (params, batch_stats, frames, batch, key) → (loss of this device's share, batch_stats).
Loss = Callable[..., tuple[jax.Array, Any]]


class Classifier(nn.Module):
    """One linear layer on the sequence feature of an encoder that is trained with it.

    Attributes:
      encoder: its variables are those of a pretrained network's ``encoder``.
      classes: how many.
    """

    encoder: Encoder
    classes: int

    def setup(self) -> None:
        self.head = nn.Dense(self.classes, kernel_init=nn.initializers.normal(0.01))

    def __call__(self, poses: jax.Array, train: bool) -> jax.Array:
        """Scores (N, classes) of poses (N, T, M, V, C).

        ``train`` says whether the encoder normalises by batch statistics, and moves the running
        ones, so that ``batch_stats`` must be mutable.
        """
        return self.head(encode(self.encoder, poses, train).astype(jnp.float32))


def encode(encoder: Encoder, poses: jax.Array, train: bool) -> jax.Array:
    """Sequence features (N, 2H) of poses (N, T, M, V, C), without prompts."""
    frames = flatten_frames(poses.astype(jnp.float32))
    if not train:
        return encoder.sequence_feature(encoder(frames))
    features, moments = encoder.forward_train(frames[None], None)
    encoder.record(moments)
    return encoder.sequence_feature(features[:, 0])


def classification_loss(model: Classifier, views: Callable[..., jax.Array]) -> Loss:
    """Cross-entropy of a batch (clips, target, position); ``views`` makes poses of it."""

    def loss(
        params: Any, batch_stats: Any, frames: jax.Array, batch: Any, key: jax.Array
    ) -> tuple[jax.Array, Any]:
        clips, target, position = batch
        scores, updated = model.apply(
            {"params": params, "batch_stats": batch_stats},
            views(key, frames, clips, position),
            train=True,
            mutable=["batch_stats"],
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(scores, target)
        return losses.mean(), updated["batch_stats"]

    return loss


def supervised_step(
    state: State,
    frames: jax.Array,
    batch: Any,
    *,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    seed: int,
) -> tuple[State, dict[str, jax.Array]]:
    """One optimizer step on one device of several, as `pcm3_jax.methods.pcm3.pretrain_step`."""
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    (value, batch_stats), gradients = jax.value_and_grad(loss, has_aux=True)(
        state.params, state.batch_stats, frames, batch, key
    )
    return apply_gradients(
        state, gradients, {"loss": value}, optimizer, AXIS, batch_stats=batch_stats
    )


class Trainer:
    """Trains with the common loop; its step is compiled once for all that it trains."""

    def __init__(
        self,
        loss: Loss,
        recordings: Recordings,
        count: int,
        settings: Training,
        config: Config,
        devices: Devices,
    ) -> None:
        """Takes what the trainings share.

        Args:
          loss: of one device's share of a batch.
          recordings: of the training split.
          count: samples of an epoch.
          settings: the task's section of the configuration.
          config: the whole configuration.
          devices: to train on.
        """
        self._recordings, self._count, self._devices = recordings, count, devices
        self._seed = config.seed
        self._batch_size = devices.fitting(settings.batch_size, count)
        self._steps_per_epoch = -(-count // self._batch_size)
        self._optimizer = build_optimizer(settings, self._steps_per_epoch)
        self._step = devices.map(
            functools.partial(
                supervised_step, loss=loss, optimizer=self._optimizer, seed=config.seed
            ),
            frames_sharded=recordings.frames is None,
            donate=True,
        )
        self._schedule = Schedule.of(
            config,
            epochs=settings.epochs,
            steps_per_epoch=self._steps_per_epoch,
            batch_size=self._batch_size,
            evaluate_every_epochs=0,
        )

    def fit(
        self,
        variables: dict[str, Any],
        draw: Callable[[int], Samples],
        evaluate: Callable[[dict[str, Any]], dict[str, float]],
        workdir: Path,
        part: str = "",
    ) -> dict[str, float]:
        """Trains from ``variables``, and evaluates what comes out; raises as `train`.

        Args:
          variables: params and batch_stats to start from.
          draw: epoch → its samples.
          evaluate: variables → metrics.
          workdir, part: as `pcm3_jax.train.loop.train` takes them.
        """
        # Copies, since the step donates its state.
        params, batch_stats = jax.tree.map(
            jnp.array, (variables["params"], variables["batch_stats"])
        )
        state = State.start(params, batch_stats, self._optimizer)
        _, metrics = train(
            self._devices.replicate(state),
            self._step,
            functools.partial(self._batches, draw),
            lambda state: evaluate(state.variables),
            self._schedule,
            workdir,
            part,
        )
        return metrics

    def _batches(
        self, draw: Callable[[int], Samples], first_step: int
    ) -> Iterator[tuple[jax.Array, Any]]:
        epoch, skipped = divmod(first_step, self._steps_per_epoch)
        while True:
            order = np.random.default_rng((self._seed, epoch)).permutation(self._count)
            # The last batch is filled up with the epoch's first samples.
            filled = np.resize(order, (self._steps_per_epoch, self._batch_size))
            yield from sample_batches(
                self._recordings, draw(epoch), filled[skipped:], self._devices
            )
            epoch, skipped = epoch + 1, 0


def predictor(
    function: Callable[..., jax.Array],
    recordings: Recordings,
    samples: Samples,
    batch_size: int,
    devices: Devices,
) -> Callable[[dict[str, Any]], np.ndarray]:
    """Computes, from any variables, ``function`` of every sample, in order, as (S, …).

    Args:
      function: (variables, frames, clips, position) → its share of the rows, on one device;
        positions are those among the samples.
      recordings: what the samples are from.
      samples: pieces of them.
      batch_size: rows at a time.
      devices: to compute on.
    """

    def gathered(variables: Any, frames: jax.Array, batch: Any) -> jax.Array:
        clips, _, position = batch
        return lax.all_gather(function(variables, frames, clips, position), AXIS, tiled=True)

    mapped = devices.map(gathered, frames_sharded=recordings.frames is None)
    count = len(samples)
    size = devices.fitting(batch_size, count)
    order = np.resize(np.arange(count), (-(-count // size), size))

    def predict(variables: dict[str, Any]) -> np.ndarray:
        placed = devices.replicate(variables)
        results = [
            np.asarray(mapped(placed, frames, batch))
            for frames, batch in sample_batches(recordings, samples, order, devices)
        ]
        return np.concatenate(results)[:count]

    return predict


def take(frames: jax.Array, clips: Clips, count: int, stride: int = 1) -> jax.Array:
    """The first ``count`` frames, every ``stride``-th, of clips: (N, count, M, V, C)."""
    return poses_at(frames, clips.start[:, None] + stride * jnp.arange(count))


def whole_sequences(split: Recordings, ids: np.ndarray) -> Samples:
    """Sequences from their first to their last frame, with their labels."""
    return Samples(
        ids.astype(np.int32), np.zeros(len(ids), np.int32), split.length[ids], split.label[ids]
    )


def initial_variables(
    model: nn.Module, encoder: Any, seed: int, *inputs: Any, draw: int = 0
) -> dict[str, Any]:
    """Variables of a model: those of its encoder as given, the rest drawn.

    Args:
      model: has an ``encoder``, and ``train`` among the arguments of a call.
      encoder: {"params": {"encoder": …}, "batch_stats": {"encoder": …}}.
      seed, draw: the rest is a function of these.
      inputs: the other arguments of a call.
    """
    key = jax.random.fold_in(jax.random.key(seed), draw)
    fresh: Any = jax.jit(lambda: model.init(key, *inputs, train=False))()
    return {kind: {**fresh[kind], **encoder[kind]} for kind in ("params", "batch_stats")}


class SupervisedTask(EncoderTask):
    """A task that trains the encoder on labels, with something on top of it."""

    def devices(self, config: Config) -> Devices:
        """What the task runs on; raises UserError where its batches do not divide over them."""
        for name in self.settings:
            batch_size = getattr(config, name).batch_size
            Devices(config.mapping).check_divides(f"{name}.batch_size", batch_size)
        return super().devices(config)

    def shown_encoder(self, config: Config, workdir: Path) -> None:
        """None: the encoder that the results are of is not the one that the task started from."""
