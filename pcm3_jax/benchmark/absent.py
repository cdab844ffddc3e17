"""Compiles for accelerators that are absent; XLA's compilers do not need the device.

The compiler is a package: ``pip install "pcm3_jax[gpu]"`` or ``[tpu]`` installs it.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from pcm3_jax.config import Config
from pcm3_jax.runtime.parallel import AXIS, Devices
from pcm3_jax.settings import require
from pcm3_jax.train.cost import abstract_step

# The GPU properties that XLA needs, from the H100's data sheet.
_H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472 l2_cache_size: 52428800
  memory_bandwidth: 3352320000000 device_memory_size: 84929347584
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
}
runtime_version { major: 12 minor: 9 }
dnn_version_info { major: 9 minor: 8 }
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
"""
_PACKAGES = {"tpu": {"libtpu"}, "gpu": {"jax-cuda12-pjrt", "jax-cuda13-pjrt"}}


@contextlib.contextmanager
def devices(kind: str, count: int) -> Iterator[None]:
    """Within it JAX compiles for up to four H100s ("gpu") or TPU v5e chips ("tpu").

    Raises:
      UserError: the compiler is not installed.
    """
    installed = {found.name.replace("_", "-") for found in importlib.metadata.distributions()}
    require(
        bool(installed & _PACKAGES[kind]),
        f'The compiler for a {kind.upper()} is missing; pip install "pcm3_jax[{kind}]".',
    )
    with contextlib.ExitStack() as stack:
        if kind == "tpu":
            variables = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
            stack.enter_context(mock.patch.dict(os.environ, variables))
            topology = topologies.get_topology_desc("v5e:2x2", "tpu")
        else:
            topology = topologies.get_topology_desc(
                "h100", "cuda", target_config=_H100, topology="1x1x4"
            )
        found = list(topology.devices)[:count]
        for name, value in (("default_backend", kind), ("devices", found), ("device_count", count)):
            stack.enter_context(mock.patch.object(jax, name, lambda value=value: value))
        # Programs for absent devices can be written to the compilation cache, but not read.
        cached = jax.config.values["jax_enable_compilation_cache"]
        jax.config.update("jax_enable_compilation_cache", False)
        stack.callback(jax.config.update, "jax_enable_compilation_cache", cached)
        yield


def compile_step(config: Config) -> jax.stages.Compiled:
    """The step compiled with shard_map for all devices of an enclosing `devices`."""
    mapping = Devices("shard_map")

    def placed(tree: object, spec: PartitionSpec) -> object:
        sharding = NamedSharding(mapping._mesh, spec)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
        )

    step, (state, frames, batch) = abstract_step(config, config.optimizer.batch_size, AXIS)
    mapped: Any = mapping.map(step, frames_sharded=False, donate=True)
    everywhere, split = PartitionSpec(), PartitionSpec(AXIS)
    lowered = mapped.lower(
        placed(state, everywhere), placed(frames, everywhere), placed(batch, split)
    )
    # Autotuning needs a GPU.
    options: dict[str, str | bool] | None
    options = {"xla_gpu_autotune_level": "0"} if jax.default_backend() == "gpu" else None
    return lowered.compile(compiler_options=options)
