"""Task "pretrain": self-supervised pretraining by the method that ``config.method.name`` names."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from pcm3_jax.data import feed
from pcm3_jax.data.recordings import Recordings, joined
from pcm3_jax.errors import warn
from pcm3_jax.methods import method_of
from pcm3_jax.methods.optimizer import learning_rate_schedule, scaled_to_batch
from pcm3_jax.runtime.parallel import AXIS, Devices
from pcm3_jax.settings import Config, Optimizer, require
from pcm3_jax.tasks.common import (
    Embedder,
    count,
    describe_splits,
    duration,
    encoder,
    encoder_embedding,
    read_split,
    read_splits,
    trained_weights,
)
from pcm3_jax.tasks.knn import retrieval_accuracy
from pcm3_jax.tasks.task import Metric, Results, Task
from pcm3_jax.train.checkpoint import latest_checkpoint
from pcm3_jax.train.cost import device_memory, largest_batch, step_seconds
from pcm3_jax.train.loop import Schedule, train

# Fewer optimizer steps than this hardly change random weights: configs/demo.py, whose encoder finds
# 73 % of the nearest neighbours, takes 930; an encoder after 26 steps finds 23 %.
_FEW_STEPS = 100

Modules = dict[str, dict[str, Any]]


class Pretrain(Task):
    """Trains an encoder without labels (§3), from random weights or from ``config.encoder``."""

    name = "pretrain"
    metrics = (
        Metric("knn_accuracy", "1-NN", "%"),
        Metric("steps", "steps", better=""),
    )
    pretrains = True

    def check(self, config: Config) -> None:
        require(
            not config.encoder or not method_of(config).every_stream,
            f"config.encoder is {config.encoder!r}, but method {config.method.name!r} trains an "
            "encoder for each stream and cannot start from a model; use --config.method.name=pcm3.",
        )

    def shown_encoder(self, config: Config, workdir: Path) -> str | None:
        return str(workdir)

    def run(self, config: Config, workdir: Path) -> Results:
        """Pretrains, with 1-NN evaluations during training and at the end; writes checkpoints.

        Raises:
          UserError: the data set is missing or smaller than a batch, the batch size is not a
            multiple of the number of devices, or the model to start from does not fit.
        """
        method, config = method_of(config), scaled_to_batch(config)
        devices, settings = Devices(config.mapping), config.optimizer
        train_split, test_split = read_splits(config, devices)
        corpus = _corpus(config, train_split, devices)
        sampler = _sampler(config, corpus, devices)
        _warn(config, sampler)
        create_state, step = method.build(config, sampler.steps_per_epoch, AXIS)
        from_disk = train_split.frames is None
        step = devices.map(step, frames_sharded=from_disk, donate=True)
        if from_disk:
            batches = functools.partial(
                feed.streamed_batches,
                corpus, sampler, devices, threads=config.data.read_threads,
            )  # fmt: skip
        else:
            batches = functools.partial(feed.resident_batches, corpus, sampler, devices)
        embedder = Embedder(encoder_embedding(method.build_model(config), config), devices, config)

        def evaluate(state: Any) -> dict[str, float]:
            variables = method.encoder_of(state.variables, config)
            accuracy = retrieval_accuracy(embedder, variables, train_split, test_split)
            return {"knn_accuracy": accuracy}

        schedule = Schedule.of(
            config,
            epochs=settings.epochs,
            steps_per_epoch=sampler.steps_per_epoch,
            batch_size=settings.batch_size,
            evaluate_every_epochs=config.eval.every_epochs,
        )
        state = create_state()
        if _loads_start(config, workdir):
            modules = start_modules(config, state.variables)
            if jax.process_index() == 0:
                print(f"starts from {_describe_start(config, state.params, modules)}", flush=True)
            state = state.starting_from(**_replaced(state.variables, modules))
        state = devices.replicate(state)
        state, evaluation = train(state, step, batches, evaluate, schedule, workdir)
        return {"steps": int(state.step), **evaluation}

    def plan(self, config: Config, workdir: Path) -> Iterator[tuple[str, str]]:
        method, config = method_of(config), scaled_to_batch(config)
        devices, settings = Devices(config.mapping), config.optimizer
        train_split, test_split = read_splits(config, devices)
        yield "method", config.method.name
        yield "data", describe_splits(train_split, test_split)
        sampler = _sampler(config, _corpus(config, train_split, devices), devices)
        _warn(config, sampler)
        state = method.abstract_state(config)
        yield "network", _parameters(state.params)
        if _loads_start(config, workdir):
            modules = start_modules(config, state.variables)
            yield "start", _describe_start(config, state.params, modules)
        rates = _rates(settings, sampler.steps_per_epoch)
        yield "schedule", f"{settings.epochs} epochs of {sampler.steps_per_epoch} steps; {rates}"
        seconds = step_seconds(config, devices)
        flops = method.step_flops(config) * settings.batch_size
        yield "step", f"{settings.batch_size} sequences, {flops / 1e9:.3g} GFLOP, {seconds:.3g} s"
        budget = device_memory() or config.benchmark.memory_gigabytes * 1e9
        needed, largest = largest_batch(config, settings.batch_size // devices.count, budget)
        yield (
            "memory",
            f"{needed / 1e9:.3g} GB per device, without the data; {budget / 1e9:.3g} GB hold a "
            f"batch of about {largest:,} sequences",
        )
        config.encoder = ""  # Random weights take as long.
        embedder, variables = encoder(config, devices)
        evaluation = embedder.seconds(variables, test_split) * (len(train_split) + len(test_split))
        evaluations = _evaluations(settings.epochs, config.eval.every_epochs)
        steps = settings.epochs * sampler.steps_per_epoch
        yield (
            "time",
            f"{duration(steps * seconds + evaluations * evaluation)}, including {evaluations} "
            f"evaluations of {duration(evaluation)}",
        )


def _sampler(config: Config, train_split: Recordings, devices: Devices) -> feed.Sampler:
    """The sampler of batches; raises UserError if the batch size does not fit data or devices."""
    batch_size = config.optimizer.batch_size
    devices.check_divides("optimizer.batch_size", batch_size)
    return feed.Sampler(len(train_split), batch_size, config.seed)


def _corpus(config: Config, train_split: Recordings, devices: Devices) -> Recordings:
    """What to train on: the training split, and those of ``config.data.extra`` without labels."""
    extra = [read_split(config, name, "train", devices) for name in config.data.extra]
    return joined([train_split, *extra])


def start_modules(config: Config, variables: Modules) -> Modules:
    """The modules of the model in ``config.encoder`` that fit this run's network.

    The encoder always does; projector, decoder and prompts do if the model has them in the same
    sizes.

    Args:
      config: of the run.
      variables: {"params": {module: …}, "batch_stats": {module: …}} before the first step, arrays
        or their shapes.

    Returns:
      The part of ``variables`` that starts from the model, with the model's arrays.

    Raises:
      UserError: as in `trained_weights`.
    """
    theirs = trained_weights(config).tree

    def shapes(tree: Modules, name: str) -> Any:
        return jax.tree.map(lambda leaf: leaf.shape, [tree[part].get(name) for part in variables])

    fitting = [n for n in variables["params"] if shapes(theirs, n) == shapes(variables, n)]
    return {
        part: {name: theirs[part][name] for name in fitting if name in variables[part]}
        for part in variables
    }


def _replaced(variables: Modules, modules: Modules) -> Modules:
    """The variables with some modules replaced."""
    # Copied: the step donates its state, and a NumPy array's memory must not be donated.
    return {p: variables[p] | jax.tree.map(jnp.array, modules[p]) for p in variables}


def _loads_start(config: Config, workdir: Path) -> bool:
    """Whether the run starts from ``config.encoder``: not if it continues from a checkpoint."""
    return bool(config.encoder) and latest_checkpoint(workdir) is None


def _describe_start(config: Config, params: dict[str, Any], modules: Modules) -> str:
    """Which modules start from ``config.encoder``, and which from random weights."""
    taken = modules["params"]
    fresh = ", ".join(name for name in sorted(params) if name not in taken)
    return f"{config.encoder}: {', '.join(sorted(taken))}" + f"; random: {fresh}" * bool(fresh)


def _warn(config: Config, sampler: feed.Sampler) -> None:
    """Warns of a recipe that cannot work on so few sequences, from process 0."""
    if jax.process_index() != 0:
        return
    steps = config.optimizer.epochs * sampler.steps_per_epoch
    hint = "configs/own.py chooses it for the size of the data set"
    # A trained encoder is adapted in few steps.
    if steps < _FEW_STEPS and not config.encoder:
        warn(
            f"{steps} optimizer steps ({sampler.steps_per_epoch} per epoch) are too few to train "
            f"an encoder from random weights: increase config.optimizer.epochs ({hint})."
        )
    # Beyond this, keys of a sample's own sequence are certain to be among its negatives.
    if (negatives := method_of(config).negatives(config)) > sampler.count:
        warn(
            f"config.method.queue_size is {negatives}, more than the {sampler.count} training "
            "sequences, so that each is contrasted with itself: use a queue of fewer than these "
            f"({hint})."
        )


def _evaluations(epochs: int, every: int) -> int:
    """Number of evaluations: after every ``every`` epochs, and at the end."""
    return epochs // every + (epochs % every > 0) if every else 1


def _parameters(params: dict[str, Any]) -> str:
    sizes = {
        name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in params.items()
    }
    parts = ", ".join(f"{name} {count(size)}" for name, size in sizes.items())
    return f"{count(sum(sizes.values()))} parameters: {parts}"


def _rates(settings: Optimizer, steps_per_epoch: int) -> str:
    rate = learning_rate_schedule(settings, steps_per_epoch)
    changes = sorted({0, settings.warmup_epochs, *settings.decay_epochs})
    return "learning rate " + ", ".join(
        f"{float(rate(epoch * steps_per_epoch)):.3g} from epoch {epoch}"
        for epoch in changes
        if epoch < settings.epochs
    )
