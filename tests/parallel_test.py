"""The same global batch gives the same update on any number of devices and processes.

What differs between device counts is the order of float32 sums.  Over 52 steps that moved the
losses by up to 1.3e-6 and the gradient norms by up to 3.1e-4, relatively; the tolerances are
about ten times that.
"""

import contextlib
import re
import socket
import subprocess

import jax
import numpy as np
import pytest

from pcm3_jax.errors import UserError
from pcm3_jax.parallel import AXIS, Devices, wait_for_all
from tests.running import losses, metrics

LOSS_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 3e-3
# 52 steps, with nothing but the steps.
LONG = (
    "--config.optimizer.epochs=13",
    "--config.eval.every_epochs=0",
    "--config.checkpoint.every_epochs=100",
)


def gradient_norms(workdir) -> np.ndarray:
    return np.array([line["gradient_norm"] for line in metrics(workdir) if "loss" in line])


def assert_close_runs(one, other) -> None:
    np.testing.assert_allclose(losses(one), losses(other), rtol=LOSS_TOLERANCE)
    np.testing.assert_allclose(gradient_norms(one), gradient_norms(other), rtol=GRADIENT_TOLERANCE)


def test_four_devices_by_pmap(program, finished_run, tmp_path):
    code, _, err = program.run(tmp_path, devices=4)
    assert (code, err) == (0, "")
    assert_close_runs(finished_run[0], tmp_path)


def test_four_devices_by_shard_map_and_every_function_compiled_once(
    program, finished_run, tmp_path
):
    """`jit(shard_map)` keeps the functions' names in the log of compilations."""
    arguments = ("--config.mapping=shard_map",)
    code, _, err = program.run(tmp_path, *arguments, devices=4, JAX_LOG_COMPILES="1")
    assert code == 0
    assert_close_runs(finished_run[0], tmp_path)
    compiled = re.findall(r"Compiling jit\((\w+)\)", err)
    assert compiled.count("pretrain_step") == 1
    assert compiled.count("_one_batch") == 2  # The two splits differ in length.


@pytest.fixture(scope="module")
def long_run(program, tmp_path_factory):
    """The 52 steps on one device by pmap."""
    workdir = tmp_path_factory.mktemp("long")
    assert program.run(workdir, *LONG)[0] == 0
    assert len(losses(workdir)) == 52
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize("mapping", ["pmap", "shard_map"])
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_device_counts(program, long_run, tmp_path, devices, mapping):
    code, _, err = program.run(tmp_path, *LONG, f"--config.mapping={mapping}", devices=devices)
    assert (code, err) == (0, "")
    assert_close_runs(long_run, tmp_path)
    print(f"{mapping} {devices}: {largest_differences(long_run, tmp_path)}")
    if devices == 1:
        np.testing.assert_array_equal(losses(long_run), losses(tmp_path))


def largest_differences(one, other) -> str:
    loss = np.abs(losses(one) / losses(other) - 1).max()
    norm = np.abs(gradient_norms(one) / gradient_norms(other) - 1).max()
    return f"largest relative difference {loss:.1e} (loss), {norm:.1e} (gradient norm)"


def run_processes(program, workdir, *arguments: str, count: int = 2, devices: int = 2):
    """Runs the program as several processes of one run; (code, out, err) of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    group = (f"--coordinator={address}", f"--processes={count}")
    with contextlib.ExitStack() as stack:
        processes = [
            program.start(workdir, *arguments, *group, f"--process={i}", devices=devices)
            for i in range(count)
        ]
        for process in processes:
            stack.callback(process.kill)
        results = []
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                out, err = process.communicate(timeout=300)
                results.append((process.returncode, out, err))
    return results


@pytest.mark.slow
@pytest.mark.parametrize("mapping", ["pmap", "shard_map"])
def test_two_processes_of_two_devices(program, long_run, tmp_path, mapping):
    """Also stopped half-way on four devices of one process, and continued on two of two."""
    arguments = (*LONG, f"--config.mapping={mapping}", "--config.checkpoint.every_epochs=4")
    for code, _, err in run_processes(program, tmp_path / "whole", *arguments):
        assert code == 0, err
    assert_close_runs(long_run, tmp_path / "whole")
    print(f"{mapping} 2 x 2: {largest_differences(long_run, tmp_path / 'whole')}")

    stopped = program.start(tmp_path / "moved", *arguments, devices=4)
    for line in stopped.stdout:
        if line.startswith("step 20/"):
            stopped.kill()
            break
    stopped.communicate()
    for code, _, err in run_processes(program, tmp_path / "moved", *arguments):
        assert code == 0, err
    assert_close_runs(long_run, tmp_path / "moved")


@pytest.mark.slow
def test_bad_input_stops_every_process(program, tmp_path):
    results = run_processes(program, tmp_path, "--config.data.name=nothing")
    assert len(results) == 2
    for code, _, err in results:
        assert code == 1
        assert err.startswith("error: There is no data set 'nothing'")


@pytest.mark.parametrize("kind", ["pmap", "shard_map"])
def test_a_mapped_function_sees_its_rows_and_the_axis(kind):
    devices = Devices(kind)

    def function(replicated, frames, batch):
        return replicated + frames.sum() + jax.lax.psum(batch.sum(0), AXIS)

    mapped = devices.map(function, frames_sharded=False)
    rows = devices.local_rows(4 * devices.count)
    batch = devices.shard(np.stack([rows, rows**2], axis=1).astype(np.float32))
    out = mapped(devices.replicate(np.float32(1)), devices.replicate(np.ones(3)), batch)
    np.testing.assert_array_equal(out, [4 + rows.sum(), 4 + (rows**2).sum()])


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_processes_rows_make_up_the_batch_in_order(processes, monkeypatch):
    devices = Devices("pmap")
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    rows = []
    for index in range(processes):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        rows += devices.local_rows(8).tolist()
    assert rows == list(range(8))


def test_a_batch_that_does_not_divide_is_refused():
    devices = Devices("pmap")
    devices.count = 3
    devices.check_divides("eval.batch_size", 6)
    with pytest.raises(UserError, match=r"config\.eval\.batch_size is 8, which .* 3 devices"):
        devices.check_divides("eval.batch_size", 8)


def test_a_single_process_waits_for_nobody():
    wait_for_all("test")
