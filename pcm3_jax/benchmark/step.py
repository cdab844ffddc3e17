"""Measures the pretraining step: throughput per device against what the device can do.

python -m pcm3_jax.benchmark --config=configs/NAME.py --workdir=DIR [--config.key=value …]

Runs the configuration's step on random sequences through the resident feed.  Between steps the
device multiplies two large matrices of the step's type; the step's arithmetic is given as a
share of that rate, pair by pair, so that a machine whose speed drifts does not blur it.

--config.peers=all compares with the step in PyTorch instead (`torch_baseline`, which needs
``pip install "pcm3_jax[peers]"``): steps of each in turn, from the same weights and on the
same views, on one device, each beside the product rate of its own library.  On a GPU set
XLA_PYTHON_CLIENT_PREALLOCATE=false, so that JAX leaves PyTorch some of the memory.  CPUs must be
idle otherwise: PyTorch's threads wait for each other in every operation, so that other programs
slow it down far more than ours.
"""

from __future__ import annotations

import collections
import functools
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from pcm3_jax.augment.pipeline import Views, draw_offsets, draw_views
from pcm3_jax.benchmark.scaling import collectives, exchange_seconds, gradient_bytes
from pcm3_jax.config import require
from pcm3_jax.data import feed
from pcm3_jax.data.recordings import Recordings
from pcm3_jax.data.skeleton import FEATURES
from pcm3_jax.errors import UserError
from pcm3_jax.methods.optimizer import build_optimizer, scaled_to_batch
from pcm3_jax.methods.pcm3 import update
from pcm3_jax.methods.state import build_model, create_state
from pcm3_jax.models.pcm3 import PromptOffsets
from pcm3_jax.runtime.files import write_json
from pcm3_jax.runtime.parallel import AXIS, Devices
from pcm3_jax.tasks.pretrain import METHODS
from pcm3_jax.train.metrics import peak_memory

# Numbers of devices to which the step is projected: each with as many samples as one has now, and
# nothing exchanged while it computes.
PROJECTED = (8, 64, 256)


def encoder_flops(config: ConfigDict) -> int:
    """Multiplications and additions in one encoder pass of one sequence."""
    hidden, layers = config.model.hidden, config.model.layers
    inputs = FEATURES + (layers - 1) * 2 * hidden
    # Per frame, both directions: input and recurrent products of three gates.
    per_frame = 2 * (inputs * 6 * hidden + layers * hidden * 6 * hidden)
    return config.views.frames * per_frame


def decoder_flops(config: ConfigDict) -> int:
    """Multiplications and additions in one decoder pass of one sequence."""
    model = config.model
    size = model.decoder_hidden
    linear = 2 * model.hidden * size + size * size + size * FEATURES
    return config.views.frames * 2 * (linear + model.decoder_layers * 6 * size * size)


def step_flops(config: ConfigDict) -> int:
    """Matrix-product arithmetic of one step for one sample; a backward pass counts twice."""
    if config.task == "cmd":
        return _cmd_step_flops(config)
    method, model = config.method, config.model
    positives = set(method.positives)
    passes = len(positives | ({"mask"} if method.masked_prediction else set()))
    guided = "predict" in positives and method.contrast_guides_decoder
    decodings = (1 + guided) if method.masked_prediction else 0
    keys = bool(positives)
    projector = 2 * (2 * model.hidden) * (2 * model.hidden + model.projection)
    queue = 2 * model.projection * method.queue_size
    return (
        (3 * passes + keys) * encoder_flops(config)
        + 3 * decodings * decoder_flops(config)
        + (3 * len(positives) + keys) * projector
        # Similarities of the embeddings and, for the KL, of their teachers.
        + (2 + bool(method.kl_weight)) * len(positives) * queue
    )


def _cmd_step_flops(config: ConfigDict) -> int:
    """Three streams of MoCo, without prediction; the distillation needs the teacher's products."""
    branch = config.copy_and_resolve_references()
    branch.update(task="pretrain")
    branch.method.update(positives=("intra",), masked_prediction=False, kl_weight=1.0)
    return 3 * step_flops(branch)


def measure(config: ConfigDict) -> dict[str, float | int | str]:
    """Times ``config.benchmark.steps`` steps and returns the figures."""
    devices = Devices(config.mapping)
    batch_size, frames = config.optimizer.batch_size, config.views.frames
    devices.check_divides("optimizer.batch_size", batch_size)
    sampler = feed.Sampler(batch_size, batch_size, config.seed)
    batches = feed.resident_batches(
        random_recordings(batch_size, 2 * frames, devices), sampler, devices, 0
    )
    create_state, step = METHODS[config.task].build(config, sampler.steps_per_epoch, AXIS)
    state = devices.replicate(create_state())
    step = devices.map(step, frames_sharded=False, donate=True)
    multiply = functools.partial(_multiply, jnp.dtype(config.model.dtype))
    product_rate(multiply)

    seconds, waits, rates = [], [], []
    for _ in range(config.benchmark.steps + 1):
        start = time.perf_counter()
        frames_on_device, batch = next(batches)
        waits.append(time.perf_counter() - start)
        state, metrics = step(state, frames_on_device, batch)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - start)
        rates.append(max(product_rate(multiply) for _ in range(3)))
    first, seconds, waits, rates = seconds[0], seconds[1:], waits[1:], rates[1:]

    median = statistics.median(seconds)
    flops = step_flops(config) * batch_size / devices.count
    return {
        "device": jax.devices()[0].device_kind,
        "devices": devices.count,
        "jax": jax.__version__,
        "dtype": _products(config),
        "batch_size": batch_size,
        "hidden": config.model.hidden,
        "frames": frames,
        "samples_per_second_per_device": batch_size / median / devices.count,
        "step_seconds": median,
        "step_seconds_min": min(seconds),
        "step_seconds_max": max(seconds),
        "gflop_per_sample": step_flops(config) / 1e9,
        "gflop_per_second_per_device": flops / median / 1e9,
        "product_gflop_per_second": statistics.median(rates) / 1e9,
        "share_of_product_rate": statistics.median(
            flops / s / r for s, r in zip(seconds, rates, strict=True)
        ),
        "input_wait_share": sum(waits) / sum(seconds),
        "compile_seconds": first - median,
        "peak_memory_gb": peak_memory() / 1e9,
    } | (_projections(config, batch_size // devices.count, median) if config.task != "cmd" else {})


def _products(config: ConfigDict) -> str:
    """The type in which products of matrices are computed; CPUs know no shorter float32."""
    if config.model.dtype == "float32" and jax.default_backend() != "cpu":
        return {"highest": "float32"}.get(config.model.precision, config.model.precision)
    return config.model.dtype


def _projections(config: ConfigDict, rows: int, step_seconds: float) -> dict[str, float]:
    """The step's exchange and efficiency on many devices of ``rows`` samples each."""
    figures = {"gradient_megabytes": gradient_bytes(config) / 1e6}
    for devices in PROJECTED:
        seconds = exchange_seconds(
            collectives(config, rows * devices, devices),
            devices,
            bandwidth=config.benchmark.link_gigabytes * 1e9,
            latency=config.benchmark.link_microseconds * 1e-6,
        )
        figures[f"exchange_seconds_on_{devices}"] = seconds
        figures[f"efficiency_on_{devices}"] = step_seconds / (step_seconds + seconds)
    return figures


class Ours:
    """Our step on given views, in the form of `pcm3_jax.benchmark.torch_baseline.Peer`."""

    def __init__(self, config: ConfigDict) -> None:
        model, optimizer = build_model(config), build_optimizer(config, config.benchmark.steps + 1)
        # Placed as the views are: otherwise it is so only after the first step, and the second is
        # compiled anew.
        self.state = Devices(config.mapping).replicate(create_state(model, optimizer, config))
        step = functools.partial(update, model=model, optimizer=optimizer, config=config)
        self._update = jax.jit(step, donate_argnums=0)
        self.multiply = functools.partial(_multiply, jnp.dtype(config.model.dtype))

    def prepare(self, views: Views, offsets: PromptOffsets) -> tuple[Views, PromptOffsets]:
        return views, offsets

    def step(self, inputs: tuple[Views, PromptOffsets]) -> Mapping[str, Any]:
        self.state, metrics = jax.block_until_ready(self._update(self.state, *inputs))
        return metrics


class Turn(NamedTuple):
    """One contestant's time of a step, its loss before, and its products' rate just after."""

    seconds: float
    loss: float
    product_rate: float


def compare(config: ConfigDict) -> dict[str, Any]:
    """Times steps of ours and of the PyTorch peers in turn.

    Returns:
      What was compared, and figures of "ours" and each peer.  ``ours_times_as_fast`` is a
      peer's seconds over ours in the same round.

    Raises:
      UserError: PyTorch is missing or cannot use JAX's device, there are several devices, or
        a setting asks for another step than the published one.
    """
    peers = _import_peers()
    require(
        jax.device_count() == 1,
        f"config.peers is {config.peers!r}, which compares on one device, but JAX sees "
        f"{jax.device_count()}; hide the others, for instance by CUDA_VISIBLE_DEVICES=0.",
    )
    device = peers.set_up(config.model.precision)
    contestants: dict[str, Any] = {"ours": Ours(config)}
    for kind in peers.KINDS if config.peers == "all" else (config.peers,):
        contestants[kind] = peers.Peer(kind, config, device)
        contestants[kind].load_state(contestants["ours"].state)
    turns = take_turns(config, contestants)

    ours = [turn.seconds for turn in turns["ours"][1:]]
    flops = step_flops(config) * config.optimizer.batch_size
    figures = {}
    for name, (first, *others) in turns.items():
        seconds = [turn.seconds for turn in others]
        ratios = [theirs / own for theirs, own in zip(seconds, ours, strict=True)]
        figures[name] = {
            "step_seconds": statistics.median(seconds),
            "step_seconds_min": min(seconds),
            "step_seconds_max": max(seconds),
            "samples_per_second": config.optimizer.batch_size / statistics.median(seconds),
            "product_gflop_per_second": statistics.median(t.product_rate for t in others) / 1e9,
            "share_of_product_rate": statistics.median(
                flops / turn.seconds / turn.product_rate for turn in others
            ),
            "ours_times_as_fast": statistics.median(ratios),
            "ours_times_as_fast_min": min(ratios),
            "ours_times_as_fast_max": max(ratios),
            "first_loss": first.loss,
        }
    return {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "torch": peers.torch.__version__,
        "dtype": _products(config),
        "batch_size": config.optimizer.batch_size,
        "hidden": config.model.hidden,
        "frames": config.views.frames,
        "gflop_per_sample": step_flops(config) / 1e9,
    } | figures


def take_turns(config: ConfigDict, contestants: Mapping[str, Any]) -> dict[str, list[Turn]]:
    """Rounds in which each contestant takes two steps on the same views, drawn by our pipeline.

    The second is timed.  The first round compiles and warms up.
    """
    batch_size, devices = config.optimizer.batch_size, Devices(config.mapping)
    sampler = feed.Sampler(batch_size, batch_size, config.seed)
    recordings = random_recordings(batch_size, 2 * config.views.frames, devices)
    batches = feed.resident_batches(recordings, sampler, devices, 0)

    @jax.jit
    def draw(key, frames, batch):
        # One device's share is all there is, whether or not the mapping put it on an axis.
        views = draw_views(key, frames, jax.tree.map(jnp.ravel, batch), config.views)
        return views, draw_offsets(key, config.model.hidden, config.model.prompt_width)

    turns: dict[str, list[Turn]] = {name: [] for name in contestants}
    order = collections.deque(contestants)
    for key in jax.random.split(jax.random.key(config.seed), config.benchmark.steps + 1):
        views, offsets = draw(key, *next(batches))
        for name in order:
            inputs = contestants[name].prepare(views, offsets)
            jax.block_until_ready((views, offsets))
            # As in training, a step comes after one of its own kind: the first after another's
            # also pays for memory that the other has taken.
            metrics = contestants[name].step(inputs)
            start = time.perf_counter()
            contestants[name].step(inputs)
            seconds = time.perf_counter() - start
            rate = max(product_rate(contestants[name].multiply) for _ in range(3))
            turns[name].append(Turn(seconds, float(metrics["loss"]), rate))
        # So that nobody always comes after the same one.
        order.rotate()
    return turns


def _import_peers() -> ModuleType:
    try:
        from pcm3_jax.benchmark import torch_baseline as peers
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise UserError(
            'config.peers needs PyTorch, which is missing; pip install "pcm3_jax[peers]".'
        ) from error
    return peers


def product_rate(multiply: Callable[[int, int], None]) -> float:
    """FLOP/s of ``multiply``, which multiplies (size, size) matrices, count times, and waits."""
    # Large enough for the device's best rate.  On accelerators one product takes hardly longer than
    # to start it and to hear that it is done.
    size, count = (2048, 1) if jax.default_backend() == "cpu" else (8192, 16)
    start = time.perf_counter()
    multiply(size, count)
    return count * 2 * size**3 / (time.perf_counter() - start)


def _multiply(dtype: jnp.dtype, size: int, count: int) -> None:
    _power(_factor(size, dtype), count).block_until_ready()


@functools.cache
def _factor(size: int, dtype: jnp.dtype) -> jax.Array:
    """A random matrix whose powers stay as large: equal numbers would take a GPU less power."""
    matrix = jax.random.normal(jax.random.key(0), (size, size)) / size**0.5
    return matrix.astype(dtype).block_until_ready()


@functools.partial(jax.jit, static_argnames="count")
def _power(matrix: jax.Array, count: int) -> jax.Array:
    power = matrix
    for _ in range(count):
        power = matrix @ power
    return power


def random_recordings(count: int, length: int, devices: Devices) -> Recordings:
    """``count`` sequences of ``length`` frames of noise."""
    frames = np.random.default_rng(0).normal(size=(count * length, FEATURES)).astype(np.float32)
    return Recordings(
        split="random",
        length=np.full(count, length, np.int32),
        label=np.zeros(count, np.int32),
        name=[str(i) for i in range(count)],
        classes=["none"],
        max_frames=length,
        frames=devices.replicate(frames),
        start=np.arange(count, dtype=np.int32) * length,
        source=None,
    )


def print_figures(figures: Mapping[str, Any]) -> None:
    """A line a figure, with those of several contestants side by side."""
    sides = {name: value for name, value in figures.items() if isinstance(value, dict)}
    rows = {name: [value] for name, value in figures.items() if name not in sides}
    if sides:
        rows[""] = list(sides)
        rows |= {name: [side[name] for side in sides.values()] for name in [*sides.values()][0]}
    for name, values in rows.items():
        texts = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in values)
        print(f"{name:32} {''.join(f'{text:16}' for text in texts)}".rstrip())


def benchmark(config: ConfigDict, workdir: Path) -> dict:
    """Measures, or compares with peers, prints a table and writes ``benchmark.json``."""
    require(
        config.task in METHODS,
        f"config.task is {config.task!r}, but the steps of {tuple(METHODS)} are what is timed.",
    )
    config = scaled_to_batch(config)
    figures = measure(config) if config.peers == "none" else compare(config)
    if jax.process_index() == 0:
        print_figures(figures)
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / "benchmark.json", figures)
    return figures
