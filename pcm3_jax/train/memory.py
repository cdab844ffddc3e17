"""The memory that a pretraining step needs, as the compiled program states it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pcm3_jax.augment.pipeline import Batch, Clips
from pcm3_jax.data.skeleton import FEATURES
from pcm3_jax.tasks.pretrain import METHODS, abstract_state


def abstract_step(
    config: ConfigDict, rows: int, axis_name: str | None = None
) -> tuple[Callable[..., Any], tuple[Any, Any, Any]]:
    """The step on ``rows`` samples, and its arguments (state, frames, batch) as shapes alone."""
    _, step = METHODS[config.task].build(config, 1, axis_name)
    ids: Any = jax.ShapeDtypeStruct((rows,), jnp.int32)
    batch = Batch(Clips(ids, ids), Clips(ids, ids), ids, ids)
    frames = jax.ShapeDtypeStruct((config.data.max_frames, FEATURES), jnp.float32)
    return step, (abstract_state(config), frames, batch)


def program_memory(program: jax.stages.Compiled) -> int:
    """Bytes of a compiled program's arguments, results and what lies between, on each device."""
    analysis: Any = program.memory_analysis()
    needed = analysis.argument_size_in_bytes + analysis.output_size_in_bytes
    return needed - analysis.alias_size_in_bytes + analysis.temp_size_in_bytes


def step_memory(config: ConfigDict, rows: int) -> int:
    """Bytes of one device's step on ``rows`` samples: state, batch and what lies between.

    The data set's frames, which stay on the device besides, are not counted.
    """
    step, arguments = abstract_step(config, rows)
    return program_memory(jax.jit(step, donate_argnums=0).lower(*arguments).compile())


def device_memory() -> int | None:
    """Bytes that JAX may use of the first device; None of a CPU, which does not tell."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def largest_batch(config: ConfigDict, rows: int, budget: float) -> tuple[int, int]:
    """(bytes of a step on ``rows`` samples, samples whose step fits into ``budget`` bytes).

    The second is extrapolated from two compiled sizes, since the state does not grow with the
    batch; 0 where even the state does not fit.  The other size is the smaller one: a TPU's compiler
    refuses what does not fit.
    """
    other = rows // 2 or 2
    needed = step_memory(config, rows)
    growth = (needed - step_memory(config, other)) / (rows - other)
    return needed, max(int(rows + (budget - needed) / growth), 0)
