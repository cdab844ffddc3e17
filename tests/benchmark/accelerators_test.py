"""The training step compiled for GPUs and TPUs without the device; run with `pytest -m slow -s`.

Only the device's compiler is needed, which ``pip install "pcm3_jax[gpu]"`` or ``[tpu]`` installs;
tests whose compiler is missing are skipped.
"""

import contextlib
import re

import pytest

from pcm3_jax.benchmark import absent, estimate
from pcm3_jax.benchmark.absent import compile_step
from pcm3_jax.benchmark.hlo import kernels
from pcm3_jax.config import default_config
from pcm3_jax.errors import UserError
from pcm3_jax.methods import METHODS
from pcm3_jax.methods.pcm3 import PCM3Method
from pcm3_jax.train.cost import program_memory

pytestmark = pytest.mark.slow

GIGABYTES = {"tpu": 16, "gpu": 80}


@pytest.fixture(params=["tpu", "gpu"])
def described(request):
    """A function that makes JAX compile for up to four H100s or TPU v5e chips; returns the kind."""
    with contextlib.ExitStack() as stack:

        def pretend(count):
            try:
                stack.enter_context(absent.devices(request.param, count))
            except UserError as error:
                pytest.skip(str(error))
            return request.param

        yield pretend


@pytest.mark.parametrize("method", list(METHODS))
def test_devices_exchange_no_more_than_projected(described, small_config, method):
    kind = described(4)
    small_config.method.name, small_config.optimizer.batch_size = method, 8
    small_config.cmd.neighbours = 4
    found = []
    for line in compile_step(small_config).as_text().splitlines():
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
    needed = program_memory(compile_step(config))
    print(f"{kind}, {dtype}, {rows} samples: {needed / 1e9:.1f} GB")
    assert needed < 0.9e9 * GIGABYTES[kind]


def test_a_frame_takes_few_kernels_on_a_gpu(described, small_config):
    if described(1) != "gpu":
        pytest.skip("A TPU has no kernels to launch.")
    text = compile_step(small_config).as_text()
    computations = dict(re.findall(r"^%?([\w.]+) \(.*?\{\n(.*?)^\}", text, re.S | re.M))
    bodies = {computations[name] for name in re.findall(r" while\(.*?body=%?([\w.]+)", text)}
    kernels = [len(re.findall(r" (?:fusion|custom-call)\(", body)) for body in bodies]
    print("kernels per frame:", sorted(kernels))
    assert kernels
    # Including the one that increments the frame counter.
    assert max(kernels) <= 5


def test_the_estimate_counts_the_step_s_arithmetic(described, small_config):
    if described(1) != "gpu":
        pytest.skip("The estimate is for GPUs.")
    small_config.model.hidden = small_config.model.decoder_hidden = 64
    found = kernels(compile_step(small_config).as_text())
    flops = sum(kernel.runs * kernel.flops for kernel in found)
    # XLA may turn the smallest products into sums.
    counted = PCM3Method().step_flops(small_config) * small_config.optimizer.batch_size
    assert flops == pytest.approx(counted, rel=0.1)
    # All loops run over the frames.
    assert {kernel.runs for kernel in found if kernel.loop} == {small_config.views.frames}


def test_estimate_prints_a_table(described, capsys):
    """At the paper's size, whose figures SPEED.md has."""
    if described(1) != "gpu":
        pytest.skip("The estimate is for GPUs.")
    estimate.run([])
    lines = capsys.readouterr().out.splitlines()
    name, launched, gigabytes, gflop, _ = lines[lines.index("") - 1].strip("| ").split(" | ")
    counted = PCM3Method().step_flops(default_config()) * 128 / 1e9
    assert name == "all"
    assert float(gflop.replace(",", "")) == pytest.approx(counted, rel=0.01)
    assert int(launched.replace(",", "")) < 8000
    assert float(gigabytes) < 110
