"""The tasks that pretrain an encoder without labels: PCM³ (§3) and its competitor CMD."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from pcm3_jax.data import feed
from pcm3_jax.data.skeleton import select_stream
from pcm3_jax.methods import cmd
from pcm3_jax.methods.optimizer import build_optimizer, scaled_to_batch
from pcm3_jax.methods.pcm3 import pretrain_step
from pcm3_jax.methods.state import TrainState, build_model, create_state
from pcm3_jax.models.pcm3 import PCM3
from pcm3_jax.runtime.parallel import AXIS, Devices
from pcm3_jax.tasks.features import Embedder, encoder_embedding
from pcm3_jax.tasks.inputs import read_splits, retrieval_accuracy
from pcm3_jax.train.loop import Schedule, train

Results = dict[str, Any]


class Method(NamedTuple):
    """What pretraining methods differ in.

    Attributes:
      build_model, create_state, step: as in `state` and `steps`.
      encoder_of: (tree, config) → the part of a state's tree that belongs to the evaluated
        network.
    """

    build_model: Callable[..., PCM3]
    create_state: Callable[..., TrainState]
    step: Callable[..., tuple[TrainState, Any]]
    encoder_of: Callable[[Any, ConfigDict], Any]

    def build(
        self, config: ConfigDict, steps_per_epoch: int, axis_name: str | None = None
    ) -> tuple[Callable[[], TrainState], Callable[..., tuple[TrainState, Any]]]:
        """What makes the state before the first step, and the step on (state, frames, batch)."""
        model = self.build_model(config, axis_name)
        optimizer = build_optimizer(config, steps_per_epoch)
        create_state = functools.partial(self.create_state, model, optimizer, config)
        step = functools.partial(self.step, model=model, optimizer=optimizer, config=config)
        return create_state, step


METHODS = {
    "pretrain": Method(build_model, create_state, pretrain_step, lambda tree, config: tree),
    "cmd": Method(
        cmd.branch_model,
        cmd.create_state,
        cmd.cmd_step,
        lambda tree, config: select_stream(tree, config.views.stream),
    ),
}


def abstract_state(config: ConfigDict) -> TrainState:
    """Shapes and types of the state before the first step, by the method that the task names."""
    create_state, _ = METHODS[config.task].build(config, steps_per_epoch=1)
    return jax.eval_shape(create_state)


def pretrain(config: ConfigDict, workdir: Path) -> Results:
    """Self-supervised pretraining by the method that the task names, with 1-NN on the way."""
    method, config = METHODS[config.task], scaled_to_batch(config)
    devices = Devices(config.mapping)
    train_split, test_split = read_splits(config, devices)
    optimizer_config = config.optimizer
    devices.check_divides("optimizer.batch_size", optimizer_config.batch_size)
    sampler = feed.Sampler(len(train_split), optimizer_config.batch_size, config.seed)
    create_state, step = method.build(config, sampler.steps_per_epoch, AXIS)
    streamed = train_split.frames is None
    step = devices.map(step, frames_sharded=streamed, donate=True)
    if streamed:
        batches = functools.partial(
            feed.streamed_batches,
            train_split, sampler, devices, threads=config.data.stream_threads,
        )  # fmt: skip
    else:
        batches = functools.partial(feed.resident_batches, train_split, sampler, devices)
    embedder = Embedder(encoder_embedding(method.build_model(config)), devices, config)

    def evaluate(state) -> dict[str, float]:
        variables = method.encoder_of(state.variables, config)
        return {"knn_accuracy": retrieval_accuracy(embedder, variables, train_split, test_split)}

    schedule = Schedule.of(
        config,
        epochs=optimizer_config.epochs,
        steps_per_epoch=sampler.steps_per_epoch,
        batch_size=optimizer_config.batch_size,
        evaluate_every_epochs=config.eval.every_epochs,
    )
    state = devices.replicate(create_state())
    state, evaluation = train(state, step, batches, evaluate, schedule, workdir)
    return {"steps": int(state.step), **evaluation}
