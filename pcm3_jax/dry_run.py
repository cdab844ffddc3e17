"""What a run would do and take, found out without doing it: `--dry_run`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from pcm3_jax.benchmark import step
from pcm3_jax.data import feed, recordings
from pcm3_jax.data.recordings import Recordings
from pcm3_jax.errors import UserError
from pcm3_jax.methods.optimizer import learning_rate_schedule, scaled_to_batch
from pcm3_jax.runtime.parallel import Devices
from pcm3_jax.tables import runner
from pcm3_jax.tables.runner import Run
from pcm3_jax.tasks import frozen, inputs
from pcm3_jax.tasks.features import Embedder
from pcm3_jax.tasks.pretrain import METHODS, abstract_state
from pcm3_jax.train.checkpoint import check_workdir
from pcm3_jax.train.memory import device_memory, largest_batch

# Steps that are timed, after one that compiles.
STEPS = 2
# Rows of a batch that a CPU is timed with; there the time grows with the rows.
CPU_ROWS = 16


def describe(config: ConfigDict, workdir: Path) -> dict[str, str]:
    """Checks everything that a run needs and prints what it would take; writes nothing.

    Returns:
      What was printed, by its heading.

    Raises:
      UserError: the run would end with it.
    """
    check_workdir(workdir, config)
    lines = {}
    for heading, text in _lines(config, workdir, Devices(config.mapping)):
        print(f"{heading:12}{text}", flush=True)
        lines[heading] = text
    return lines


# A heading and its text, as soon as they are known.
Lines = Iterator[tuple[str, str]]


def _lines(config: ConfigDict, workdir: Path, devices: Devices) -> Lines:
    yield "task", config.task
    yield "devices", f"{devices.count} × {jax.devices()[0].device_kind}"
    if config.task == "table":
        yield from _table(config, workdir, devices)
    elif config.task == "fusion":
        yield "data", f"scores of {len(frozen.fused_scores(config))} linear evaluations"
    else:
        yield from _on_data(config, devices)


def _table(config: ConfigDict, workdir: Path, devices: Devices) -> Lines:
    runs = runner.planned_runs(config, workdir)
    waiting = [run for run in runs if _waits(run)]
    yield "runs", f"{len(runs)}, of which {len(runs) - len(waiting)} have finished"
    missing: dict[str, str] = {}
    for number, run in enumerate(waiting, 1):
        yield f"  {number}", run.folder.name
        try:
            recordings.find(run.config.data.name, run.config.data.dir)
        except UserError as error:
            missing[run.config.data.name] = str(error)
    for reason in missing.values():
        yield "missing", reason
    possible = [
        run
        for run in waiting
        if not any(_waits(part) and part.config.data.name in missing for part in run.chain())
    ]
    if waiting and not possible:
        raise UserError(f"No run of table {config.table} has its data.")
    yield from _pretraining_of(possible, devices)


def _waits(run: Run) -> bool:
    return not (run.folder / "results.json").exists()


def _pretraining_of(runs: Sequence[Run], devices: Devices) -> Lines:
    """The time that pretraining takes among these runs, from the rate of one run's steps."""
    configs = [scaled_to_batch(run.config) for run in runs if run.config.task in METHODS]
    if not configs:
        return
    first = configs[0]
    rate = step.step_flops(first) * first.optimizer.batch_size / _step_seconds(first, devices)
    flops = sum(
        config.optimizer.epochs
        * recordings.count(config.data.name, config.data.dir, "train")
        * step.step_flops(config)
        for config in configs
    )
    text = (
        f"{_duration(flops / rate)} for pretraining ({len(configs)} of these runs): "
        f"{_arithmetic(flops)} at {rate / 1e9:.3g} GFLOP/s; evaluations come on top"
    )
    yield "time", text


def _on_data(config: ConfigDict, devices: Devices) -> Lines:
    untrimmed = config.task == "detection"
    train_split, test_split = inputs.read_splits(config, devices, untrimmed=untrimmed)
    yield "data", _data(train_split, test_split)
    if config.task == "baseline":
        return
    if config.task in METHODS:
        yield from _pretraining(scaled_to_batch(config), train_split, test_split, devices)
        return
    encoder = inputs.encoder(config, devices)
    size = sum(leaf.size for leaf in jax.tree.leaves(encoder[1]["params"]))
    flops = step.encoder_flops(config)
    text = (
        f"{config.encoder or 'random'}, {_count(size)} parameters, {flops / 1e9:.3g} GFLOP a "
        "sequence"
    )
    yield "encoder", text
    if config.task in ("linear_eval", "finetune", "detection", "motion_prediction"):
        section = "linear" if config.task == "linear_eval" else config.task
        yield "schedule", f"{config[section].epochs} epochs, batch {config[section].batch_size}"
    encoded = _encoded(config, train_split, test_split)
    seconds = encoded * _encoding_seconds(config, encoder, test_split)
    text = (
        f"about {_duration(seconds)}: as long as encoding {encoded:,.0f} sequences of "
        f"{config.views.frames} frames"
    )
    yield "time", text


def _data(train_split: Recordings, test_split: Recordings) -> str:
    splits = train_split, test_split
    counts = " and ".join(f"{len(split):,} sequences in {split.split}" for split in splits)
    resident = [split.frames.nbytes for split in splits if split.frames is not None]
    place = f"{sum(resident) / 1e9:.3g} GB on each device" if resident else "streamed from disk"
    return f"{counts}; {len(train_split.classes)} classes; {place}"


def _pretraining(
    config: ConfigDict, train_split: Recordings, test_split: Recordings, devices: Devices
) -> Lines:
    settings = config.optimizer
    devices.check_divides("optimizer.batch_size", settings.batch_size)
    sampler = feed.Sampler(len(train_split), settings.batch_size, config.seed)
    yield "network", _parameters(config)
    rates = _rates(config, sampler.steps_per_epoch)
    yield "schedule", f"{settings.epochs} epochs of {sampler.steps_per_epoch} steps; {rates}"
    seconds = _step_seconds(config, devices)
    flops = step.step_flops(config) * settings.batch_size
    yield "step", f"{settings.batch_size} sequences, {flops / 1e9:.3g} GFLOP, {seconds:.3g} s"
    budget = device_memory() or config.benchmark.memory_gigabytes * 1e9
    needed, largest = largest_batch(config, settings.batch_size // devices.count, budget)
    memory = (
        f"{needed / 1e9:.3g} GB a device besides the data; {budget / 1e9:.3g} GB would hold about "
        f"{largest:,} sequences"
    )
    yield "memory", memory
    encoder = inputs.encoder(config, devices)
    evaluation = _encoding_seconds(config, encoder, test_split)
    evaluation *= len(train_split) + len(test_split)
    evaluations = _evaluations(settings.epochs, config.eval.every_epochs)
    steps = settings.epochs * sampler.steps_per_epoch
    total = (
        f"{_duration(steps * seconds + evaluations * evaluation)}, {evaluations} evaluations of "
        f"{_duration(evaluation)} included"
    )
    yield "time", total


def _step_seconds(config: ConfigDict, devices: Devices) -> float:
    """The time of a step, measured."""
    config = config.copy_and_resolve_references()
    config.benchmark.steps = STEPS
    rows = config.optimizer.batch_size
    if jax.default_backend() == "cpu":
        config.optimizer.batch_size = min(rows, CPU_ROWS * devices.count)
    return step.measure(config)["step_seconds"] * rows / config.optimizer.batch_size


def _encoded(config: ConfigDict, train_split: Recordings, test_split: Recordings) -> float:
    """How many sequences of ``config.views.frames`` frames an evaluation encodes.

    One that is trained on counts three times, for the backward pass; what lies behind the encoder
    does not count.
    """
    train, test = len(train_split), len(test_split)
    if config.task == "linear_eval":
        return (config.linear.cached_crops or config.linear.epochs) * train + test
    if config.task == "finetune":
        settings = config.finetune
        return settings.draws * (3 * settings.epochs * settings.fraction * train + test)
    if config.task == "detection":
        settings = config.detection
        train, test = (split.length.sum() for split in (train_split, test_split))
        windows = 3 * settings.epochs * train / settings.train_every + test
        return windows * settings.frames / config.views.frames
    if config.task == "motion_prediction":
        settings = config.motion_prediction
        return (3 * settings.epochs * train + test) * settings.observed / config.views.frames
    return train + test


def _encoding_seconds(
    config: ConfigDict, encoder: tuple[Embedder, Any], split: Recordings
) -> float:
    """The time to encode one sequence, from that of one batch."""
    embedder, variables = encoder
    count = min(config.eval.batch_size, len(split))
    batch = dataclasses.replace(split, length=split.length[:count])
    # The first time compiles.
    for _ in range(2):
        start = time.perf_counter()
        embedder.central(variables, batch)
    return (time.perf_counter() - start) / count


def _evaluations(epochs: int, every: int) -> int:
    """How often a run is evaluated: every so many epochs, and at its end."""
    return epochs // every + (epochs % every > 0) if every else 1


def _parameters(config: ConfigDict) -> str:
    sizes = {
        name: sum(leaf.size for leaf in jax.tree.leaves(part))
        for name, part in abstract_state(config).params.items()
    }
    parts = ", ".join(f"{name} {_count(size)}" for name, size in sizes.items())
    return f"{_count(sum(sizes.values()))} parameters: {parts}"


def _rates(config: ConfigDict, steps_per_epoch: int) -> str:
    rate = learning_rate_schedule(config.optimizer, steps_per_epoch)
    changes = sorted({0, config.optimizer.warmup_epochs, *config.optimizer.decay_epochs})
    return "learning rate " + ", ".join(
        f"{float(rate(epoch * steps_per_epoch)):.3g} from epoch {epoch}"
        for epoch in changes
        if epoch < config.optimizer.epochs
    )


def _count(number: int) -> str:
    return f"{number / 1e6:.3g} M" if number >= 1e6 else f"{number / 1e3:.3g} k"


def _arithmetic(flops: float) -> str:
    for unit, size in (("E", 1e18), ("P", 1e15), ("T", 1e12)):
        if flops >= size:
            return f"{flops / size:.3g} {unit}FLOP"
    return f"{flops / 1e9:.3g} GFLOP"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.2g} s"
