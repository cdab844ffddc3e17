"""Cost of a pretraining step: memory (from the compiled program) and measured time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pcm3_jax.data import feed
from pcm3_jax.data.batch import Batch, Clips
from pcm3_jax.data.recordings import Recordings
from pcm3_jax.data.skeleton import FEATURES
from pcm3_jax.methods import method_of
from pcm3_jax.runtime.parallel import AXIS, Devices
from pcm3_jax.settings import Config


def abstract_step(
    config: Config, rows: int, axis_name: str | None = None
) -> tuple[Callable[..., Any], tuple[Any, Any, Any]]:
    """The step on ``rows`` samples, and the shapes of its arguments (state, frames, batch)."""
    method = method_of(config)
    _, step = method.build(config, 1, axis_name)
    ids: Any = jax.ShapeDtypeStruct((rows,), jnp.int32)
    batch = Batch(Clips(ids, ids), Clips(ids, ids), ids, ids)
    frames = jax.ShapeDtypeStruct((config.data.max_frames, FEATURES), jnp.float32)
    return step, (method.abstract_state(config), frames, batch)


def program_memory(program: jax.stages.Compiled) -> int:
    """Bytes of a compiled program's arguments, results and temporaries, on each device."""
    analysis: Any = program.memory_analysis()
    needed = analysis.argument_size_in_bytes + analysis.output_size_in_bytes
    return needed - analysis.alias_size_in_bytes + analysis.temp_size_in_bytes


def step_memory(config: Config, rows: int) -> int:
    """Bytes of one device's step on ``rows`` samples, without the data set's resident frames."""
    step, arguments = abstract_step(config, rows)
    return program_memory(jax.jit(step, donate_argnums=0).lower(*arguments).compile())


def device_memory() -> int | None:
    """Memory limit of the first device in bytes; None on CPUs, which do not report it."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def largest_batch(config: Config, rows: int, budget: float) -> tuple[int, int]:
    """(bytes of a step on ``rows`` samples, largest batch whose step fits ``budget`` bytes).

    The largest batch is extrapolated linearly from two compiled batch sizes; it is 0 if not even
    the state fits.  The other compiled size is smaller than ``rows``, because the TPU compiler
    rejects programs that do not fit.
    """
    other = rows // 2 or 2
    needed = step_memory(config, rows)
    growth = (needed - step_memory(config, other)) / (rows - other)
    return needed, max(int(rows + (budget - needed) / growth), 0)


def step_seconds(config: Config, devices: Devices, steps: int = 2) -> float:
    """The median time of a step on noise, without compilation.

    On CPU, where the time is proportional to the batch size, a smaller batch is timed.
    """
    rows = batch_size = config.optimizer.batch_size
    if jax.default_backend() == "cpu":
        batch_size = min(rows, 16 * devices.count)
    train = Steps(config, devices, batch_size)
    train.step()
    return statistics.median(train.step() for _ in range(steps)) * rows / batch_size


class Steps:
    """Timed pretraining steps on noise through the resident feed.

    Attributes:
      waited: seconds that the last step waited for its input.
    """

    def __init__(self, config: Config, devices: Devices, batch_size: int) -> None:
        devices.check_divides("optimizer.batch_size", batch_size)
        self._batches = noise_batches(config, devices, batch_size)
        create_state, step = method_of(config).build(config, 1, AXIS)
        self._state = devices.replicate(create_state())
        self._step = devices.map(step, frames_sharded=False, donate=True)
        self.waited = 0.0

    def step(self) -> float:
        """Takes one step, waits for it and returns its seconds."""
        start = time.perf_counter()
        frames, batch = next(self._batches)
        self.waited = time.perf_counter() - start
        self._state = jax.block_until_ready(self._step(self._state, frames, batch))[0]
        return time.perf_counter() - start


def noise_batches(
    config: Config, devices: Devices, batch_size: int
) -> Iterator[tuple[jax.Array, Batch]]:
    """Infinite iterator over (frames, batch) of the resident feed, on sequences of noise."""
    length = 2 * config.views.frames
    shape = (batch_size * length, FEATURES)
    frames = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    recordings = Recordings(
        split="noise",
        length=np.full(batch_size, length, np.int32),
        label=np.zeros(batch_size, np.int32),
        name=[str(i) for i in range(batch_size)],
        classes=["none"],
        max_frames=length,
        frames=devices.replicate(frames),
        start=np.arange(batch_size, dtype=np.int32) * length,
        source=None,
    )
    sampler = feed.Sampler(batch_size, batch_size, config.seed)
    return feed.resident_batches(recordings, sampler, devices, 0)
