"""Measures the pretraining step: throughput per device against what the device can do.

python -m pcm3_jax.benchmark --config=configs/NAME.py --workdir=DIR [--config.key=value …]

Runs the configuration's step on random sequences through the resident feed.  Between steps the
device multiplies two large matrices of the step's type; the step's arithmetic is given as a
share of that rate, pair by pair, so that a machine whose speed drifts does not blur it.
"""

from __future__ import annotations

import functools
import resource
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from pcm3_jax import command_line
from pcm3_jax.checkpoint import write_json
from pcm3_jax.data import feed
from pcm3_jax.data.recordings import Recordings
from pcm3_jax.parallel import AXIS, Devices
from pcm3_jax.skeleton import COORDINATES, FEATURES, JOINTS, PERSONS
from pcm3_jax.state import build_model, build_optimizer, create_state
from pcm3_jax.steps import pretrain_step


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


def measure(config: ConfigDict) -> dict[str, float | int | str | list[float]]:
    """Times ``config.benchmark.steps`` steps and returns the figures."""
    devices = Devices(config.mapping)
    batch_size, frames = config.optimizer.batch_size, config.views.frames
    sampler = feed.Sampler(batch_size, batch_size, config.seed)
    batches = feed.resident_batches(
        random_recordings(batch_size, 2 * frames, devices), sampler, devices, 0
    )
    model = build_model(config, AXIS)
    optimizer = build_optimizer(config, sampler.steps_per_epoch)
    state = devices.replicate(create_state(model, optimizer, config))
    step = devices.map(
        functools.partial(pretrain_step, model=model, optimizer=optimizer, config=config),
        frames_sharded=False,
        donate=True,
    )
    dtype = jnp.dtype(config.model.dtype)
    size = 2048 if jax.default_backend() == "cpu" else 8192
    product_rate(size, dtype)

    seconds, waits, rates = [], [], []
    for _ in range(config.benchmark.steps + 1):
        start = time.perf_counter()
        frames_on_device, batch = next(batches)
        waits.append(time.perf_counter() - start)
        state, metrics = step(state, frames_on_device, batch)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - start)
        rates.append(max(product_rate(size, dtype) for _ in range(3)))
    first, seconds, waits, rates = seconds[0], seconds[1:], waits[1:], rates[1:]

    median = statistics.median(seconds)
    flops = step_flops(config) * batch_size / devices.count
    return {
        "device": jax.devices()[0].device_kind,
        "devices": devices.count,
        "jax": jax.__version__,
        "dtype": config.model.dtype,
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
    }


def product_rate(size: int, dtype: jnp.dtype) -> float:
    """FLOP/s of one product of two (size, size) matrices on the first device."""
    matrix = jnp.ones((size, size), dtype)
    matrix.block_until_ready()
    start = time.perf_counter()
    _product(matrix).block_until_ready()
    return 2 * size**3 / (time.perf_counter() - start)


@jax.jit
def _product(matrix: jax.Array) -> jax.Array:
    return matrix @ matrix


def peak_memory() -> int:
    """Most bytes in use so far: of the first device, or of this process on a CPU."""
    stats = jax.local_devices()[0].memory_stats()
    if stats:
        return stats["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def random_recordings(count: int, length: int, devices: Devices) -> Recordings:
    """``count`` sequences of ``length`` frames of noise."""
    shape = (count * length, PERSONS, JOINTS, COORDINATES)
    frames = np.random.default_rng(0).normal(size=shape).astype(np.float32)
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


def benchmark(config: ConfigDict, workdir: Path) -> dict:
    """Measures, prints a table and writes ``benchmark.json``."""
    figures = measure(config)
    for name, value in figures.items():
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        print(f"{name:32} {text}")
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / "benchmark.json", figures)
    return figures


if __name__ == "__main__":
    command_line.main(benchmark)
