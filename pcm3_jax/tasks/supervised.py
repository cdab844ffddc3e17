"""Supervised training of an encoder with a head: finetuning, detection, motion prediction."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
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
from pcm3_jax.data.skeleton import COORDINATES, JOINTS, PERSONS, poses_at
from pcm3_jax.inference import model_file
from pcm3_jax.inference.weights import HEADS, ModelWeights, Weights
from pcm3_jax.methods.optimizer import build_optimizer
from pcm3_jax.methods.pcm3 import apply_gradients
from pcm3_jax.methods.state import State
from pcm3_jax.models.heads import Classifier
from pcm3_jax.runtime.parallel import AXIS, Devices
from pcm3_jax.settings import Config, Section, Training
from pcm3_jax.tasks.common import EncoderTask
from pcm3_jax.train.loop import Schedule, train

# Input for initialisation; two frames suffice, because no variable's shape depends on T.
POSES = np.zeros((1, 2, PERSONS, JOINTS, COORDINATES), np.float32)
# (params, batch_stats, frames, batch, key) → (loss of this device's share, batch_stats).
Loss = Callable[..., tuple[jax.Array, Any]]


def classification_loss(model: Classifier, views: Callable[..., jax.Array]) -> Loss:
    """Cross-entropy of a batch (clips, target, position); ``views`` computes its poses."""

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
    """One optimizer step on one device, like `pcm3_jax.methods.pcm3.pretrain_step`."""
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    (value, batch_stats), gradients = jax.value_and_grad(loss, has_aux=True)(
        state.params, state.batch_stats, frames, batch, key
    )
    return apply_gradients(
        state, gradients, {"loss": value}, optimizer, AXIS, batch_stats=batch_stats
    )


class Trainer:
    """Runs one or more trainings with `pcm3_jax.train.loop`; all share one compiled step."""

    def __init__(
        self,
        loss: Loss,
        recordings: Recordings,
        count: int,
        settings: Training,
        config: Config,
        devices: Devices,
        frozen: Sequence[str] = (),
    ) -> None:
        """Builds the step and the schedule that all trainings use.

        Args:
          loss: the loss function, which gets one device's share of a batch.
          recordings: the training split.
          count: number of samples in an epoch.
          settings: the task's section of the configuration.
          config: the whole configuration.
          devices: the devices to train on.
          frozen: names of modules whose parameters the optimizer leaves as they are.
        """
        self._recordings, self._count, self._devices = recordings, count, devices
        self._seed = config.seed
        self._batch_size = devices.fitting(settings.batch_size, count)
        self._steps_per_epoch = -(-count // self._batch_size)
        self._optimizer = build_optimizer(settings, self._steps_per_epoch)
        if frozen:  # weight decay changes parameters that have no gradient
            self._optimizer = optax.partition(
                {True: optax.set_to_zero(), False: self._optimizer},
                lambda params: {name: name in frozen for name in params},
            )
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
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """Trains from ``variables`` and evaluates the result; raises like `train`.

        Args:
          variables: params and batch_stats to start from.
          draw: epoch → the samples to train on in it.
          evaluate: variables → metrics.
          workdir, part: as in `pcm3_jax.train.loop.train`.

        Returns:
          The trained variables and their metrics.
        """
        # Copies, since the step donates its state.
        params, batch_stats = jax.tree.map(
            jnp.array, (variables["params"], variables["batch_stats"])
        )
        state = State.start(params, batch_stats, self._optimizer)
        state, metrics = train(
            self._devices.replicate(state),
            self._step,
            functools.partial(self._batches, draw),
            lambda state: evaluate(state.variables),
            self._schedule,
            workdir,
            part,
        )
        return state.variables, metrics

    def _batches(
        self, draw: Callable[[int], Samples], first_step: int
    ) -> Iterator[tuple[jax.Array, Any]]:
        epoch, skipped = divmod(first_step, self._steps_per_epoch)
        while True:
            order = np.random.default_rng((self._seed, epoch)).permutation(self._count)
            # The last batch is padded with the first samples of the epoch.
            filled = np.resize(order, (self._steps_per_epoch, self._batch_size))
            yield from sample_batches(
                self._recordings, draw(epoch), filled[skipped:], self._devices
            )
            epoch, skipped = epoch + 1, 0


def save_model(
    workdir: Path,
    config: Config,
    variables: dict[str, Any],
    head: str,
    train_split: Recordings,
    settings: Section | None = None,
) -> None:
    """Writes the trained encoder and head to the workdir, where `pcm3_jax.load` finds them.

    Args:
      workdir, config: of the run.
      variables: of a network in `pcm3_jax.models.heads`.
      head: "classifier", or a name in `pcm3_jax.inference.weights.HEADS`.
      train_split: the recordings that it was trained on.
      settings: the task's section, which has the settings of the head.

    Raises:
      UserError: the file cannot be written.
    """
    if jax.process_index() != 0:
        return
    host = jax.tree.map(np.asarray, variables)
    params = dict(host["params"])
    tree = {
        "params": {"encoder": params.pop("encoder")},
        "batch_stats": {"encoder": host["batch_stats"]["encoder"]},
    }
    config = config.copy()
    config.eval.update(layers=(), pooling=("last",))  # what every head of models.heads reads
    model = ModelWeights.of(
        Weights(config, tree),
        # A classifier is a single layer, "head".
        heads={head: params.get("head", params)},
        # The section without the settings of the training.
        head_settings=(
            {head: HEADS[head].settings.from_dict(settings.to_dict())} if settings else {}
        ),
        classes=() if head == "forecaster" else tuple(train_split.classes),
        window=train_split.window,
        persons=train_split.persons,
    )
    model_file.save(workdir / model_file.MODEL_FILE, model)


def predictor(
    function: Callable[..., jax.Array],
    recordings: Recordings,
    samples: Samples,
    batch_size: int,
    devices: Devices,
) -> Callable[[dict[str, Any]], np.ndarray]:
    """A function of variables that computes ``function`` for every sample, in order: (S, …).

    Args:
      function: (variables, frames, clips, position) → rows of one device; ``position`` is the
        index among the samples.
      recordings: the recordings that the samples refer to.
      samples: clips of the recordings.
      batch_size: samples per call, over all devices.
      devices: the devices to compute on.
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
    """Variables of a model: the encoder's as given, the others randomly initialised.

    Args:
      model: a module with an ``encoder``, called with a ``train`` argument.
      encoder: {"params": {"encoder": …}, "batch_stats": {"encoder": …}}.
      seed, draw: determine the random initialisation.
      inputs: the other arguments of the call.
    """
    key = jax.random.fold_in(jax.random.key(seed), draw)
    fresh: Any = jax.jit(lambda: model.init(key, *inputs, train=False))()
    return {kind: {**fresh[kind], **encoder[kind]} for kind in ("params", "batch_stats")}


class SupervisedTask(EncoderTask):
    """A task that trains the encoder together with a head."""

    def devices(self, config: Config) -> Devices:
        """The devices; raises UserError if a batch size is not a multiple of their number."""
        for name in self.settings:
            batch_size = getattr(config, name).batch_size
            Devices(config.mapping).check_divides(f"{name}.batch_size", batch_size)
        return super().devices(config)

    def shown_encoder(self, config: Config, workdir: Path) -> None:
        """None: training changes the encoder, so the results do not describe ``config.encoder``."""
