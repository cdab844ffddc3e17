"""Training an encoder with something on top of it on labels: one step for every such task."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from ml_collections import ConfigDict

from pcm3_jax.data.feed import Samples, sample_batches
from pcm3_jax.data.recordings import Recordings
from pcm3_jax.loop import Schedule, train
from pcm3_jax.models.encoder import Encoder
from pcm3_jax.optimizer import optimizer_of
from pcm3_jax.parallel import AXIS, Devices
from pcm3_jax.skeleton import flatten_frames
from pcm3_jax.steps import descend

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
        return encoder.sequence_feature(encoder.frozen(frames))
    features, moments = encoder(frames[None], None)
    encoder.record(moments)
    return encoder.sequence_feature(features[:, 0])


class State(flax.struct.PyTreeNode):
    """What a step changes; the fields are those of `state.TrainState`."""

    step: jax.Array
    healthy: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState

    @property
    def variables(self) -> dict[str, Any]:
        return {"params": self.params, "batch_stats": self.batch_stats}


def classification_loss(model: Classifier, views: Callable[..., jax.Array]) -> Loss:
    """Cross-entropy of a batch (clips, target, position); ``views`` makes poses of it."""

    def loss(params, batch_stats, frames, batch, key):
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
    """One optimizer step on one device of several, in the manner of `steps.pretrain_step`."""
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    (value, batch_stats), gradients = jax.value_and_grad(loss, has_aux=True)(
        state.params, state.batch_stats, frames, batch, key
    )
    return descend(state, gradients, {"loss": value}, optimizer, AXIS, batch_stats=batch_stats)


def fit(
    variables: dict[str, Any],
    loss: Loss,
    recordings: Recordings,
    draw: Callable[[int], Samples],
    evaluate: Callable[[dict[str, Any]], dict[str, float]],
    settings: ConfigDict,
    config: ConfigDict,
    devices: Devices,
    workdir: Path,
    part: str = "",
) -> dict[str, float]:
    """Trains from ``variables`` with the common loop, and evaluates what comes out.

    Args:
      variables: params and batch_stats to start from.
      loss: of one device's share of a batch.
      recordings: of the training split.
      draw: epoch → its samples, of which there are always as many.
      evaluate: variables → metrics.
      settings: the task's section of the configuration: epochs, batch_size and the optimizer.
      config: the whole configuration.
      devices: to train on.
      workdir, part: as `pcm3_jax.loop.train` takes them.
    """
    count = len(draw(0))
    # A set smaller than the batch is one batch; each device has as many rows as the others.
    batch_size = min(settings.batch_size, -(-count // devices.count) * devices.count)
    steps_per_epoch = -(-count // batch_size)
    optimizer = optimizer_of(settings, steps_per_epoch)

    def batches(first_step: int) -> Iterator[tuple[jax.Array, Any]]:
        epoch, skipped = divmod(first_step, steps_per_epoch)
        while True:
            order = np.random.default_rng((config.seed, epoch)).permutation(count)
            # The last batch is filled up with the epoch's first samples.
            filled = np.resize(order, (steps_per_epoch, batch_size))
            yield from sample_batches(recordings, draw(epoch), filled[skipped:], devices)
            epoch, skipped = epoch + 1, 0

    step = devices.map(
        functools.partial(supervised_step, loss=loss, optimizer=optimizer, seed=config.seed),
        frames_sharded=recordings.frames is None,
        donate=True,
    )
    # Copies, since the step donates its state.
    params, batch_stats = jax.tree.map(jnp.array, (variables["params"], variables["batch_stats"]))
    state = State(
        step=jnp.int32(0),
        healthy=jnp.bool_(True),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
    )
    schedule = Schedule(
        total_steps=settings.epochs * steps_per_epoch,
        steps_per_epoch=steps_per_epoch,
        batch_size=batch_size,
        log_every_steps=config.log_every_steps,
        checkpoint_every_epochs=config.checkpoint.every_epochs,
        keep_checkpoints=config.checkpoint.keep,
        on_failure=config.checkpoint.on_failure,
        evaluate_every_epochs=0,
    )
    _, metrics = train(
        devices.replicate(state),
        step,
        batches,
        lambda state: evaluate(state.variables),
        schedule,
        workdir,
        part,
    )
    return metrics


def predict(
    function: Callable[..., jax.Array],
    variables: dict[str, Any],
    recordings: Recordings,
    samples: Samples,
    batch_size: int,
    devices: Devices,
) -> np.ndarray:
    """``function(variables, frames, clips, position)`` of every sample, in order, as (S, …).

    Args:
      function: on one device, its share of the rows; positions are those among the samples.
      variables: the same on every device.
      recordings: what the samples are from.
      samples: pieces of them.
      batch_size: rows at a time.
      devices: to compute on.
    """

    def gathered(variables, frames, batch):
        clips, _, position = batch
        return lax.all_gather(function(variables, frames, clips, position), AXIS, tiled=True)

    mapped = devices.map(gathered, frames_sharded=recordings.frames is None)
    count = len(samples)
    size = min(batch_size, -(-count // devices.count) * devices.count)
    batches = -(-count // size)
    order = np.resize(np.arange(count), (batches, size))
    placed = devices.replicate(variables)
    results = [
        np.asarray(mapped(placed, frames, batch))
        for frames, batch in sample_batches(recordings, samples, order, devices)
    ]
    return np.concatenate(results)[:count]
