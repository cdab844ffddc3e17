"""The tasks that pretrain an encoder without labels: PCM³ (§3) and its competitor CMD."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from pcm3_jax import cmd
from pcm3_jax.data import feed
from pcm3_jax.downstream.features import Embedder, encoder_embedding
from pcm3_jax.downstream.inputs import read_splits, retrieval_accuracy
from pcm3_jax.loop import Schedule, train
from pcm3_jax.models.pcm3 import PCM3
from pcm3_jax.parallel import AXIS, Devices
from pcm3_jax.skeleton import of_stream
from pcm3_jax.state import (
    TrainState,
    build_model,
    build_optimizer,
    create_state,
)
from pcm3_jax.steps import pretrain_step

Results = dict[str, Any]


def pretrain(config: ConfigDict, workdir: Path) -> Results:
    """Self-supervised pretraining (§3), with 1-NN accuracy on the way."""
    return _pretrain(
        config, workdir, build_model(config, AXIS), create_state, pretrain_step, lambda tree: tree
    )


def pretrain_cmd(config: ConfigDict, workdir: Path) -> Results:
    """Pretraining by `cmd`, with 1-NN accuracy of the branch ``config.views.stream``."""
    branch = functools.partial(of_stream, stream=config.views.stream)
    return _pretrain(
        config, workdir, cmd.branch_model(config, AXIS), cmd.create_state, cmd.cmd_step, branch
    )


def _pretrain(
    config: ConfigDict,
    workdir: Path,
    model: PCM3,
    create: Callable[..., TrainState],
    step_function: Callable[..., tuple[TrainState, Any]],
    evaluated: Callable[[Any], Any],
) -> Results:
    """Pretrains from ``create`` by ``step_function``, which are as in `state` and `steps`.

    ``evaluated`` takes the evaluated network's variables from the state's.
    """
    devices = Devices(config.mapping)
    train_split, test_split = read_splits(config, devices)
    optimizer_config = config.optimizer
    devices.check_divides("optimizer.batch_size", optimizer_config.batch_size)
    sampler = feed.Sampler(len(train_split), optimizer_config.batch_size, config.seed)
    optimizer = build_optimizer(config, sampler.steps_per_epoch)
    streamed = train_split.frames is None
    step = devices.map(
        functools.partial(step_function, model=model, optimizer=optimizer, config=config),
        frames_sharded=streamed,
        donate=True,
    )
    if streamed:
        batches = functools.partial(
            feed.streamed_batches,
            train_split, sampler, devices, threads=config.data.stream_threads,
        )  # fmt: skip
    else:
        batches = functools.partial(feed.resident_batches, train_split, sampler, devices)
    embedder = Embedder(encoder_embedding(model), devices, config)

    def evaluate(state) -> dict[str, float]:
        variables = evaluated({"params": state.params, "batch_stats": state.batch_stats})
        return {"knn_accuracy": retrieval_accuracy(embedder, variables, train_split, test_split)}

    schedule = Schedule(
        total_steps=optimizer_config.epochs * sampler.steps_per_epoch,
        steps_per_epoch=sampler.steps_per_epoch,
        batch_size=optimizer_config.batch_size,
        log_every_steps=config.log_every_steps,
        checkpoint_every_epochs=config.checkpoint.every_epochs,
        keep_checkpoints=config.checkpoint.keep,
        on_failure=config.checkpoint.on_failure,
        evaluate_every_epochs=config.eval.every_epochs,
    )
    state = devices.replicate(create(model, optimizer, config))
    state, evaluation = train(state, step, batches, evaluate, schedule, workdir)
    return {"steps": int(state.step), **evaluation}
