"""The training step compiled for GPUs and TPUs without the device; run with `pytest -m slow -s`.

Only the device's compiler is needed, which ``pip install "pcm3_jax[gpu]"`` or ``[tpu]`` installs;
tests whose compiler is missing are skipped.
"""

import importlib.metadata
import re

import jax
import pytest
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from pcm3_jax.config import default_config
from pcm3_jax.methods import METHODS
from pcm3_jax.methods.pcm3 import PCM3Method
from pcm3_jax.runtime.parallel import AXIS, Devices
from pcm3_jax.train.cost import abstract_step, program_memory

pytestmark = pytest.mark.slow

# The GPU properties that XLA needs, from the H100's data sheet.
H100 = """
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
GIGABYTES = {"tpu": 16, "gpu": 80}


@pytest.fixture(params=["tpu", "gpu"])
def described(request, monkeypatch):
    """A function that makes JAX compile for up to four H100s or TPU v5e chips; returns the kind."""
    kind = request.param
    compilers = {"tpu": {"libtpu"}, "gpu": {"jax-cuda12-pjrt", "jax-cuda13-pjrt"}}
    installed = {found.name.replace("_", "-") for found in importlib.metadata.distributions()}
    if not installed & compilers[kind]:
        pytest.skip(f"The compiler for a {kind.upper()} is not installed.")
    if kind == "tpu":
        monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
        monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        topology = topologies.get_topology_desc("v5e:2x2", "tpu")
    else:
        topology = topologies.get_topology_desc(
            "h100", "cuda", target_config=H100, topology="1x1x4"
        )

    def pretend(count):
        devices = list(topology.devices)[:count]
        monkeypatch.setattr(jax, "default_backend", lambda: kind)
        monkeypatch.setattr(jax, "devices", lambda: devices)
        monkeypatch.setattr(jax, "device_count", lambda: count)
        return kind

    # Programs for absent devices can be written to the compilation cache, but not read.
    jax.config.update("jax_enable_compilation_cache", False)
    yield pretend
    jax.config.update("jax_enable_compilation_cache", True)


def compiled_step(config):
    """The step compiled for all devices with shard_map."""
    devices = Devices("shard_map")

    def placed(tree, spec):
        sharding = NamedSharding(devices._mesh, spec)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
        )

    step, (state, frames, batch) = abstract_step(config, config.optimizer.batch_size, AXIS)
    mapped = devices.map(step, frames_sharded=False, donate=True)
    lowered = mapped.lower(
        *placed((state, frames), PartitionSpec()), placed(batch, PartitionSpec(AXIS))
    )
    # Autotuning needs a GPU.
    options = {"xla_gpu_autotune_level": "0"} if jax.default_backend() == "gpu" else None
    return lowered.compile(compiler_options=options)


@pytest.mark.parametrize("method", list(METHODS))
def test_devices_exchange_no_more_than_projected(described, small_config, method):
    kind = described(4)
    small_config.method.name, small_config.optimizer.batch_size = method, 8
    small_config.cmd.neighbours = 4
    found = []
    for line in compiled_step(small_config).as_text().splitlines():
        exchange = re.search(r" (all-\w+|reduce-scatter|collective-\w+)(-start)?\(", line)
        if exchange:
            found.append((exchange[1], re.search(r"channel_id=(\d+)", line)[1]))
    if kind == "tpu":
        # The TPU compiler splits one collective into several operations of the same channel.
        found = sorted(set(found))
    print(f"{kind}, {method}: {[name for name, _ in found]}")
    # Compilers may replace a reduce-scatter by an all-reduce, and merge two collectives.
    assert {name for name, _ in found} <= {"all-gather", "all-reduce", "reduce-scatter"}
    branches = 3 if METHODS[method].every_stream else 1
    assert 0 < len(found) <= branches * len(PCM3Method().collectives(small_config, 8, 4))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [128, 1024])
def test_the_paper_s_step_fits_into_memory(described, dtype, rows):
    kind = described(1)
    if kind == "tpu" and rows > 128:
        pytest.skip("A TPU v5e has 16 GB.")
    config = default_config()
    config.model.dtype, config.optimizer.batch_size = dtype, rows
    needed = program_memory(compiled_step(config))
    print(f"{kind}, {dtype}, {rows} samples: {needed / 1e9:.1f} GB")
    assert needed < 0.9e9 * GIGABYTES[kind]


def test_a_frame_takes_few_kernels_on_a_gpu(described, small_config):
    if described(1) != "gpu":
        pytest.skip("A TPU has no kernels to launch.")
    text = compiled_step(small_config).as_text()
    computations = dict(re.findall(r"^%?([\w.]+) \(.*?\{\n(.*?)^\}", text, re.S | re.M))
    bodies = {computations[name] for name in re.findall(r" while\(.*?body=%?([\w.]+)", text)}
    kernels = [len(re.findall(r" (?:fusion|custom-call)\(", body)) for body in bodies]
    print("kernels per frame:", sorted(kernels))
    assert kernels
    # Including the one that increments the frame counter.
    assert max(kernels) <= 5
