"""The same global batch gives the same update on any number of devices and processes.

Device counts differ only in the order of float32 sums.  Over 52 steps this changed the losses by a
relative 1.3e-6 and the gradient norms by 3.1e-4 at most; the tolerances are about ten times that.
"""

import contextlib
import re
import resource
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from pcm3_jax.errors import UserError
from pcm3_jax.runtime.parallel import AXIS, Devices, wait_for_all
from tests.running import assert_same_run, checkpoint_steps, losses, metrics

LOSS_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 3e-3
# 52 steps, without evaluations and checkpoints.
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


def test_four_devices_match_one_by_pmap(program, finished_run, tmp_path):
    code, _, err = program.run(tmp_path, devices=4)
    assert (code, err) == (0, "")
    assert_close_runs(finished_run[0], tmp_path)


def test_four_devices_match_one_by_shard_map_and_compile_once(program, finished_run, tmp_path):
    """The compilation log has the functions' names only with `jit(shard_map)`."""
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
def test_every_device_count_gives_the_same_run(program, long_run, tmp_path, devices, mapping):
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


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@contextlib.contextmanager
def started(program, workdir, *arguments: str, count: int = 2, devices: int = 2):
    """Starts several processes of one run and kills those that remain."""
    group = (f"--coordinator={free_address()}", f"--processes={count}")
    with contextlib.ExitStack() as stack:
        processes = []
        for i in range(count):
            processes.append(
                program.start(workdir, *arguments, *group, f"--process={i}", devices=devices)
            )
            stack.enter_context(processes[-1])
            stack.callback(processes[-1].kill)
        yield processes


def run_processes(program, workdir, *arguments: str, count: int = 2, devices: int = 2):
    """Runs the program as several processes of one run; (code, out, err) of each."""
    results = []
    with started(program, workdir, *arguments, count=count, devices=devices) as processes:
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                out, err = process.communicate(timeout=300)
                results.append((process.returncode, out, err))
    return results


@pytest.mark.slow
@pytest.mark.parametrize("mapping", ["pmap", "shard_map"])
def test_two_processes_of_two_devices_match_one_device(program, long_run, tmp_path, mapping):
    """Also killed half-way in one process of four devices, and resumed in two of two."""
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
def test_bad_input_ends_every_process(program, tmp_path):
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
def test_local_rows_of_all_processes_cover_the_batch_in_order(processes, monkeypatch):
    devices = Devices("pmap")
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    rows = []
    for index in range(processes):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        rows += devices.local_rows(8).tolist()
    assert rows == list(range(8))


def test_a_batch_that_does_not_divide_is_an_error():
    devices = Devices("pmap")
    devices.count = 3
    devices.check_divides("eval.batch_size", 6)
    with pytest.raises(UserError, match=r"config\.eval\.batch_size is 8, which .* 3 devices"):
        devices.check_divides("eval.batch_size", 8)


def test_a_single_process_passes_the_barrier():
    wait_for_all("test")


@pytest.mark.slow
def test_a_run_resumes_on_another_number_of_devices(program, finished_run, tmp_path):
    """1, then 4, then 2 devices; the first two are killed in different epochs."""
    for devices, lines in ((1, 6), (4, 14)):
        with program.start(tmp_path, devices=devices) as process:
            wait_for_lines(tmp_path, lines, [process])
            process.kill()
    code, _, err = program.run(tmp_path, devices=2)
    assert (code, err) == (0, "")
    assert_close_runs(finished_run[0], tmp_path)


def wait_for_lines(workdir, count: int, processes) -> None:
    end = time.monotonic() + 300
    path = workdir / "metrics.jsonl"
    while not path.exists() or path.read_text().count("\n") < count:
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < end, "This takes too long."
        time.sleep(0.01)


@pytest.fixture(scope="module")
def pair_run(program, tmp_path_factory):
    """The workdir of an uninterrupted run of two processes."""
    workdir = tmp_path_factory.mktemp("pair")
    assert [result[0] for result in run_processes(program, workdir, devices=1)] == [0, 0]
    return workdir


LOST = (
    r"error: Another process of this run has ended or cannot be reached \(.+\); the same command "
    "in every process continues from the last checkpoint."
)


@pytest.mark.slow
def test_a_killed_process_ends_the_other_with_an_error(program, pair_run, tmp_path):
    """Kills either process; the resumed run has the same result."""
    for victim, lines in ((1, 6), (0, 14)):
        with started(program, tmp_path, devices=1) as processes:
            wait_for_lines(tmp_path, lines, processes)
            processes[victim].kill()
            _, err = processes[1 - victim].communicate(timeout=60)
            assert processes[1 - victim].returncode == 1
            assert re.fullmatch(LOST, err.splitlines()[-1]), err
    assert not (tmp_path / "results.json").exists()
    assert [result[0] for result in run_processes(program, tmp_path, devices=1)] == [0, 0]
    assert_same_run(pair_run, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_stopped_process_ends_the_other_with_an_error(program, tmp_path, victim):
    """SIGSTOP keeps the connections open; only the heartbeats stop."""
    with started(program, tmp_path, devices=1) as processes:
        wait_for_lines(tmp_path, 6, processes)
        processes[victim].send_signal(signal.SIGSTOP)
        _, err = processes[1 - victim].communicate(timeout=60)
    assert processes[1 - victim].returncode == 1
    assert re.fullmatch(LOST, err.splitlines()[-1]), err


def test_sigterm_to_one_process_saves_in_all_processes(program, tmp_path):
    with started(program, tmp_path, devices=1) as processes:
        wait_for_lines(tmp_path, 6, processes)
        processes[1].terminate()
        # Only the last line, because the runtime's warnings before it name the process.
        told = [process.communicate(timeout=60)[1].splitlines()[-1] for process in processes]
    assert [process.returncode for process in processes] == [143, 143]
    assert told[0] == told[1]
    step = re.fullmatch(r"SIGTERM: saved step (\d+); the same command continues\.", told[0])[1]
    assert checkpoint_steps(tmp_path)[-1] == int(step)


@pytest.mark.slow
def test_a_full_disk_of_one_process_ends_all_processes(program, tmp_path):
    with started(program, tmp_path, devices=1) as processes:
        wait_for_lines(tmp_path, 6, processes)
        no_growth = (0, resource.RLIM_INFINITY)
        resource.prlimit(processes[0].pid, resource.RLIMIT_FSIZE, no_growth)
        told = [process.communicate(timeout=60)[1].splitlines()[-1] for process in processes]
    assert [process.returncode for process in processes] == [1, 1]
    assert re.match(r"error: .* cannot be (saved|written) \(File too large\); the same", told[0])
    assert re.fullmatch(LOST, told[1])


# Shortens the timeout for connecting from five minutes to two seconds.
ALONE = """
import functools, jax
jax.distributed.initialize = functools.partial(jax.distributed.initialize, initialization_timeout=2)
from pcm3_jax.config import command_line
command_line.main(print)
"""


@pytest.mark.parametrize("process", [0, 1])
def test_a_process_that_finds_no_others_is_an_error(program, tmp_path, process):
    """The runtime aborts it, and the error must still be the last line."""
    arguments = program.command(tmp_path)[3:]
    group = (f"--coordinator={free_address()}", "--processes=2", f"--process={process}")
    result = subprocess.run(
        [sys.executable, "-c", ALONE, *arguments, *group],
        env=program.environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stdout) == (1, "")
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: The processes of this run have not found each other (")
