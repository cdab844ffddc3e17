"""Measures the pretraining step: throughput per device, relative to its matrix product rate.

pcm3 bench --config=configs/NAME.py --workdir=DIR [--config.key=value …]

Runs the configuration's step on random sequences through the resident feed.  After each step the
device multiplies large matrices of the step's dtype; the step's FLOP/s are reported as a share of
that rate.  Measuring the rate after each step makes the share insensitive to clock-rate drift.

--config.benchmark.torch_baseline=all compares with PyTorch instead, which needs
``pip install "pcm3_jax[torch]"``: it alternates steps of both on one device, from the same weights
and on the same views, each relative to the matrix product rate of its own library.  On a GPU set
XLA_PYTHON_CLIENT_PREALLOCATE=false to leave PyTorch some memory.  On a CPU, run nothing
else: PyTorch's threads synchronise in every operation, so other programs slow it down far more
than JAX.
"""

from __future__ import annotations

import collections
import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pcm3_jax.augment.pipeline import Views, draw_offsets, draw_views
from pcm3_jax.benchmark.scaling import exchange_seconds
from pcm3_jax.config import Config, task_of
from pcm3_jax.data.batch import Batch
from pcm3_jax.errors import UserError
from pcm3_jax.methods import method_of
from pcm3_jax.methods.optimizer import build_optimizer, scaled_to_batch
from pcm3_jax.methods.pcm3 import PCM3Method, update
from pcm3_jax.methods.state import build_model, create_state
from pcm3_jax.models.pcm3 import PromptOffsets
from pcm3_jax.runtime.files import write_json
from pcm3_jax.runtime.parallel import Devices
from pcm3_jax.settings import require
from pcm3_jax.train.cost import Steps, noise_batches, program_memory
from pcm3_jax.train.metrics import peak_memory
from pcm3_jax.train.workdir import locked

# Numbers of devices that the step's time is projected to, with the measured number of samples per
# device and no overlap of communication and computation.
PROJECTED = (8, 64, 256)


class Turn(NamedTuple):
    """A step's time, the rate of matrix products right after it, and the previous step's loss."""

    seconds: float
    product_rate: float
    loss: float | None = None


def measure(config: Config) -> dict[str, Any]:
    """Times ``config.benchmark.steps`` steps after the first, which compiles.

    Raises:
      UserError: the batch does not divide over the devices.
    """
    devices = Devices(config.mapping)
    batch_size = config.optimizer.batch_size
    train = Steps(config, devices, batch_size)
    multiply = functools.partial(_multiply, jnp.dtype(config.model.dtype))
    product_rate(multiply)

    turns, waits = [], []
    for _ in range(config.benchmark.steps + 1):
        seconds = train.step()
        turns.append(Turn(seconds, _best_rate(multiply)))
        waits.append(train.waited)
    figures = _conditions(config, method_of(config).step_flops(config))
    figures["devices"] = devices.count
    flops = figures["gflop_per_sample"] * 1e9 * batch_size / devices.count
    figures |= _timing(turns, flops)
    median = figures["step_seconds"]
    return figures | {
        "samples_per_second_per_device": batch_size / median / devices.count,
        "gflop_per_second_per_device": flops / median / 1e9,
        "input_wait_share": sum(waits[1:]) / sum(turn.seconds for turn in turns[1:]),
        "compile_seconds": turns[0].seconds - median,
        "peak_memory_gb": peak_memory() / 1e9,
        **_projections(config, batch_size // devices.count, median),
    }


def _conditions(config: Config, step_flops: float) -> dict[str, Any]:
    """What was measured, and on which device."""
    model = config.model
    dtype: str = model.dtype
    if dtype == "float32" and model.precision != "highest" and jax.default_backend() != "cpu":
        dtype = model.precision
    return {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        # The precision of matmuls; on CPUs float32 is never reduced.
        "dtype": dtype,
        "batch_size": config.optimizer.batch_size,
        "hidden": model.hidden,
        "frames": config.views.frames,
        "gflop_per_sample": step_flops / 1e9,
    }


def _timing(turns: Sequence[Turn], flops: float) -> dict[str, float]:
    """Times and rates of steps of ``flops`` FLOPs each; the first step is a warm-up."""
    seconds = [turn.seconds for turn in turns[1:]]
    rates = [turn.product_rate for turn in turns[1:]]
    shares = (flops / s / rate for s, rate in zip(seconds, rates, strict=True))
    return {
        "step_seconds": statistics.median(seconds),
        "step_seconds_min": min(seconds),
        "step_seconds_max": max(seconds),
        "product_gflop_per_second": statistics.median(rates) / 1e9,
        "share_of_product_rate": statistics.median(shares),
    }


def _projections(config: Config, rows: int, step_seconds: float) -> dict[str, float]:
    """Communication time and efficiency of the step on many devices of ``rows`` samples each.

    Empty for a method that does not state its collectives.
    """
    method = method_of(config)
    if not method.collectives(config, rows, 1):
        return {}
    figures = {"gradient_megabytes": method.gradient_bytes(config) / 1e6}
    for devices in PROJECTED:
        seconds = exchange_seconds(
            method.collectives(config, rows * devices, devices),
            devices,
            bandwidth=config.benchmark.link_gigabytes * 1e9,
            latency=config.benchmark.link_microseconds * 1e-6,
        )
        figures[f"exchange_seconds_on_{devices}"] = seconds
        figures[f"efficiency_on_{devices}"] = step_seconds / (step_seconds + seconds)
    return figures


class Ours:
    """Our step on given views, with the methods of `torch_baseline.Baseline`."""

    def __init__(self, config: Config) -> None:
        model = build_model(config)
        optimizer = build_optimizer(config.optimizer, config.benchmark.steps + 1)
        # Replicated, because the step returns this sharding: another one would compile it twice.
        self.state = Devices(config.mapping).replicate(create_state(model, optimizer, config))
        step = functools.partial(update, model=model, optimizer=optimizer, config=config)
        self._update = jax.jit(step, donate_argnums=0)
        self._program: jax.stages.Compiled | None = None
        self.multiply = functools.partial(_multiply, jnp.dtype(config.model.dtype))

    def prepare(self, views: Views, offsets: PromptOffsets) -> tuple[Views, PromptOffsets]:
        return views, offsets

    def step(self, inputs: tuple[Views, PromptOffsets]) -> Mapping[str, Any]:
        # Compiled once; a state or views of another kind would be refused.
        self._program = self._program or self._update.lower(self.state, *inputs).compile()
        self.state, metrics = jax.block_until_ready(self._program(self.state, *inputs))
        return metrics

    @property
    def memory(self) -> int | None:
        """Bytes that a step needs, by the compiler's account; None before the first step."""
        return program_memory(self._program) if self._program else None


def compare(config: Config) -> dict[str, Any]:
    """Times our step and those of the PyTorch baselines, alternating between them.

    Returns:
      The conditions, and the figures of "ours" and of each baseline.  ``ours_times_as_fast`` is
      the baseline's time divided by ours, within the same round.

    Raises:
      UserError: PyTorch is missing or cannot use JAX's device, there are several devices, or
        a setting changes the published step.
    """
    torch_baseline = _import_torch_baseline()
    require(
        jax.device_count() == 1,
        "config.benchmark.torch_baseline compares on one device, but JAX sees "
        f"{jax.device_count()}; hide the others, for instance by CUDA_VISIBLE_DEVICES=0.",
    )
    device = torch_baseline.set_up(config.model.precision)
    contestants: dict[str, Any] = {"ours": Ours(config)}
    chosen = config.benchmark.torch_baseline
    for kind in torch_baseline.KINDS if chosen == "all" else (chosen,):
        contestants[kind] = torch_baseline.Baseline(kind, config, device)
        contestants[kind].load_state(contestants["ours"].state)
    turns = take_turns(config, contestants)

    figures = _conditions(config, PCM3Method().step_flops(config))
    figures["torch"] = torch_baseline.torch.__version__
    batch_size = config.optimizer.batch_size
    for name, its in turns.items():
        timing = _timing(its, figures["gflop_per_sample"] * 1e9 * batch_size)
        pairs = zip(its[1:], turns["ours"][1:], strict=True)
        ratios = [theirs.seconds / own.seconds for theirs, own in pairs]
        figures[name] = timing | {
            "samples_per_second": batch_size / timing["step_seconds"],
            "ours_times_as_fast": statistics.median(ratios),
            "ours_times_as_fast_min": min(ratios),
            "ours_times_as_fast_max": max(ratios),
            # None where PyTorch does not tell it, on a CPU.
            "memory_gb": (memory := contestants[name].memory) and memory / 1e9,
            "first_loss": its[0].loss,
        }
    return figures


def take_turns(config: Config, contestants: Mapping[str, Any]) -> dict[str, list[Turn]]:
    """Runs rounds in which each contestant takes two steps on the same views.

    The second step is timed.  The first round compiles and warms up.
    """
    batches = noise_batches(config, Devices(config.mapping), config.optimizer.batch_size)

    @jax.jit
    def draw(key: jax.Array, frames: jax.Array, batch: Batch) -> tuple[Views, PromptOffsets]:
        # There is one device; pmap's batches have a leading axis for it.
        views = draw_views(key, frames, jax.tree.map(jnp.ravel, batch), config.views)
        return views, draw_offsets(key, config.model.hidden, config.model.prompt_width)

    turns: dict[str, list[Turn]] = {name: [] for name in contestants}
    order = collections.deque(contestants)
    for key in jax.random.split(jax.random.key(config.seed), config.benchmark.steps + 1):
        views, offsets = draw(key, *next(batches))
        for name in order:
            inputs = contestants[name].prepare(views, offsets)
            jax.block_until_ready((views, offsets))
            # An untimed step first warms the CPU's caches, which hold the data of the previous
            # contestant; in training, they hold data of the previous step.
            metrics = contestants[name].step(inputs)
            start = time.perf_counter()
            contestants[name].step(inputs)
            seconds = time.perf_counter() - start
            rate = _best_rate(contestants[name].multiply)
            turns[name].append(Turn(seconds, rate, float(metrics["loss"])))
        # The next round starts with the next contestant.
        order.rotate()
    return turns


def _import_torch_baseline() -> ModuleType:
    try:
        from pcm3_jax.benchmark import torch_baseline
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise UserError(
            "config.benchmark.torch_baseline needs PyTorch, which is missing; pip install "
            '"pcm3_jax[torch]".'
        ) from error
    return torch_baseline


def product_rate(multiply: Callable[[int, int], None]) -> float:
    """FLOP/s of ``multiply(size, count)``, which computes ``count`` (size, size) products."""
    # Large enough to reach the device's peak rate.  Accelerators compute several products, because
    # launch and synchronisation would take a large share of the time of a single one.
    size, count = (2048, 1) if jax.default_backend() == "cpu" else (8192, 16)
    start = time.perf_counter()
    multiply(size, count)
    return count * 2 * size**3 / (time.perf_counter() - start)


def _best_rate(multiply: Callable[[int, int], None]) -> float:
    return max(product_rate(multiply) for _ in range(3))


def _multiply(dtype: jnp.dtype, size: int, count: int) -> None:
    _power(_factor(size, dtype), count).block_until_ready()


@functools.cache
def _factor(size: int, dtype: jnp.dtype) -> jax.Array:
    """A random matrix whose powers keep their scale.

    On constant matrices a GPU needs less power, so it would reach a higher, unrealistic rate.
    """
    matrix = jax.random.normal(jax.random.key(0), (size, size)) / size**0.5
    return matrix.astype(dtype).block_until_ready()


@functools.partial(jax.jit, static_argnames="count")
def _power(matrix: jax.Array, count: int) -> jax.Array:
    power = matrix
    for _ in range(count):
        power = matrix @ power
    return power


def print_figures(figures: Mapping[str, Any]) -> None:
    """Prints one figure per line, several contestants side by side."""
    sides = {name: value for name, value in figures.items() if isinstance(value, dict)}
    rows = {name: [value] for name, value in figures.items() if name not in sides}
    if sides:
        rows[""] = list(sides)
        rows |= {name: [side[name] for side in sides.values()] for name in [*sides.values()][0]}
    for name, values in rows.items():
        texts = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in values)
        print(f"{name:32} {''.join(f'{text:16}' for text in texts)}".rstrip())


def benchmark(config: Config, workdir: Path) -> dict[str, Any]:
    """Runs `measure` or `compare`, prints the figures and writes ``benchmark.json``.

    Raises:
      UserError: the task is not pretraining, or as in `measure` and `compare`.
    """
    require(
        task_of(config).pretrains,
        f"config.task is {config.task!r}, but only pretraining steps can be timed.",
    )
    config = scaled_to_batch(config)
    if config.benchmark.torch_baseline != "none":
        _import_torch_baseline()  # before the workdir is made
    with locked(workdir):
        figures = measure(config) if config.benchmark.torch_baseline == "none" else compare(config)
        if jax.process_index() == 0:
            print_figures(figures)
            write_json(workdir / "benchmark.json", figures)
    return figures
