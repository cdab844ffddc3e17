"""The training loop: logging, checkpoints, and bitwise resume after every kind of interruption."""

import contextlib
import dataclasses
import json
import math
import os
import random
import re
import resource
import signal
import time

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pcm3_jax.errors import UserError, WriteError
from pcm3_jax.train.checkpoint import Checkpoints
from pcm3_jax.train.loop import Preempted, Schedule, train
from pcm3_jax.train.workdir import claim_workdir
from tests.running import FEW_STEPS, assert_same_run, checkpoint_steps, losses, metrics

SCHEDULE = Schedule(
    total_steps=12,
    steps_per_epoch=3,
    batch_size=4,
    log_every_steps=2,
    checkpoint_every_epochs=2,
    keep_checkpoints=9,
    on_failure="stop",
    evaluate_every_epochs=1,
)


@flax.struct.dataclass
class ToyState:
    step: jax.Array
    finite: jax.Array
    weight: jax.Array


def toy_state() -> ToyState:
    return ToyState(jnp.int32(0), jnp.bool_(True), jnp.float32(1))


@jax.jit
def toy_step(state, frames, batch):
    """Like the real step: from the first non-finite step on, the state does not change."""
    loss = state.weight * batch
    finite = state.finite & jnp.isfinite(loss)
    new = ToyState(state.step + 1, finite, state.weight + 0.1 * batch)
    new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state.replace(finite=finite))
    return new, {"loss": loss, "gradient_norm": jnp.abs(batch)}


def toy_batches(first: int):
    """Batch of step s (from 0) is the number s."""
    while True:
        yield None, jnp.float32(first)
        first += 1


def toy_evaluation(state) -> dict[str, float]:
    return {"knn_accuracy": float(state.weight)}


def run_toy(workdir, batches=toy_batches, schedule=SCHEDULE, step=toy_step, state=None):
    return train(state or toy_state(), step, batches, toy_evaluation, schedule, workdir)


def interrupt_at(step, signal_or_error):
    """Batches, with a signal or an error at the given step."""

    def batches(first):
        for index, item in enumerate(toy_batches(first), first):
            if index == step:
                if isinstance(signal_or_error, BaseException):
                    raise signal_or_error
                os.kill(os.getpid(), signal_or_error)
            yield item

    return batches


def test_steps_are_logged_evaluated_and_saved_on_schedule(tmp_path):
    state, evaluation = run_toy(tmp_path)
    assert int(state.step) == 12
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 8, 10, 12]
    assert [(line["step"], line["epoch"]) for line in lines if "epoch" in line] == [
        (3, 1), (6, 2), (9, 3), (12, 4),
    ]  # fmt: skip
    assert checkpoint_steps(tmp_path) == [6, 12]
    # Step s multiplies the weight 1 + 0.1 · (0 + … + s - 2) by its batch, s - 1.
    expected = [(s - 1) * (1 + 0.1 * sum(range(s - 1))) for s in (2, 4, 6, 8, 10, 12)]
    np.testing.assert_allclose(losses(tmp_path), expected, rtol=1e-6)  # float32 sums
    assert evaluation == {"knn_accuracy": float(state.weight)}


def test_lines_on_standard_output_are_readable(tmp_path, capsys):
    run_toy(tmp_path)
    out, err = capsys.readouterr()
    assert err == ""
    training = r"step \d+/12  loss [\d.]+  gradient_norm [\d.]+  \S+ samples/s  \d\d:\d\d left"
    evaluation = r"step \d+/12  epoch \d  knn_accuracy [\d.]+"
    for line in out.splitlines():
        assert re.fullmatch(f"{training}|{evaluation}", line), line
    assert len(out.splitlines()) == 10


def test_a_finished_run_only_evaluates_again(tmp_path):
    state, evaluation = run_toy(tmp_path)
    before = (tmp_path / "metrics.jsonl").read_text()
    again, evaluation_again = run_toy(tmp_path)
    assert evaluation_again == evaluation
    assert float(again.weight) == float(state.weight)
    assert (tmp_path / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize("step", range(12))
def test_resume_after_an_error_at_any_step_is_bitwise(tmp_path, step):
    state, evaluation = run_toy(tmp_path / "whole")
    with pytest.raises(ZeroDivisionError):
        run_toy(tmp_path / "broken", interrupt_at(step, ZeroDivisionError()))
    again, evaluation_again = run_toy(tmp_path / "broken")
    assert (float(again.weight), evaluation_again) == (float(state.weight), evaluation)
    assert metrics(tmp_path / "broken") == metrics(tmp_path / "whole")


@pytest.mark.parametrize("step", [0, 3, 10])
def test_sigterm_saves_the_step_and_resume_is_bitwise(tmp_path, step):
    state, _ = run_toy(tmp_path / "whole")
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted, match=f"saved step {step + 1};"):
        run_toy(tmp_path / "broken", interrupt_at(step, signal.SIGTERM))
    assert signal.getsignal(signal.SIGTERM) is handler
    assert checkpoint_steps(tmp_path / "broken")[-1] == step + 1
    firsts = []

    def batches(first):
        firsts.append(first)
        return toy_batches(first)

    again, _ = run_toy(tmp_path / "broken", batches)
    assert firsts == [step + 1]
    assert float(again.weight) == float(state.weight)
    assert metrics(tmp_path / "broken") == metrics(tmp_path / "whole")


def test_sigterm_in_the_last_step_raises_after_the_training(tmp_path):
    with pytest.raises(Preempted, match="has ended"):
        run_toy(tmp_path, interrupt_at(11, signal.SIGTERM))
    assert checkpoint_steps(tmp_path)[-1] == 12
    state, _ = run_toy(tmp_path)
    assert int(state.step) == 12


# As in checkpoint_test.py.
after_failed_saves = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def fill_after(saved, workdir, filled, stack):
    """Fills the disk until the stack is closed, once the checkpoint of a step is there."""
    while saved not in checkpoint_steps(workdir):
        time.sleep(0.001)
    stack.enter_context(filled())


@after_failed_saves
def test_resume_after_a_full_disk_is_bitwise(tmp_path, filled):
    run_toy(tmp_path / "whole")
    broken = tmp_path / "broken"

    def batches(first):
        for index, item in enumerate(toy_batches(first), first):
            if index == 7:
                fill_after(6, broken, filled, stack)
            yield item

    refusal = pytest.raises(WriteError, match="cannot be (saved|written)")
    with contextlib.ExitStack() as stack, refusal:
        run_toy(broken, batches)
    assert checkpoint_steps(broken) == [6]
    run_toy(broken)
    assert metrics(broken) == metrics(tmp_path / "whole")
    assert checkpoint_steps(broken) == [6, 12]


@after_failed_saves
def test_on_failure_continue_trains_through_a_full_disk(tmp_path, filled, capsys):
    schedule = dataclasses.replace(SCHEDULE, on_failure="continue", checkpoint_every_epochs=1)
    run_toy(tmp_path / "whole", schedule=schedule)
    broken = tmp_path / "broken"

    def batches(first):
        for index, item in enumerate(toy_batches(first), first):
            if index == 4:
                fill_after(3, broken, filled, stack)
            if index == 10:
                stack.close()
            yield item

    with contextlib.ExitStack() as stack:
        run_toy(broken, batches, schedule)
    assert "warning: Step 6 cannot be saved" in capsys.readouterr().err
    assert metrics(broken) == metrics(tmp_path / "whole")
    # The save of step 9 may have been under way when there was room again.
    assert set(checkpoint_steps(broken)) - {9} == {3, 12}


@after_failed_saves
@pytest.mark.parametrize("on_failure", ["stop", "continue"])
def test_sigterm_with_a_full_disk_raises_a_write_error(tmp_path, filled, on_failure, capsys):
    schedule = dataclasses.replace(SCHEDULE, on_failure=on_failure, log_every_steps=100)

    def batches(first):
        for index, item in enumerate(toy_batches(first), first):
            if index == 7:
                fill_after(6, tmp_path, filled, stack)
                os.kill(os.getpid(), signal.SIGTERM)
            yield item

    refusal = pytest.raises(WriteError, match="[Ss]tep 8 (could not|cannot) be saved")
    with contextlib.ExitStack() as stack, refusal:
        run_toy(tmp_path, batches, schedule)
    assert checkpoint_steps(tmp_path) == [6]


def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path):
    with pytest.raises(Preempted):
        run_toy(tmp_path, interrupt_at(7, signal.SIGTERM))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "loss": 1.0}\n{"step": 10, "lo')
    run_toy(tmp_path)
    steps = [line["step"] for line in metrics(tmp_path)]
    assert steps == [2, 3, 4, 6, 6, 8, 9, 10, 12, 12]


@pytest.mark.parametrize("bad", [0, 1, 4, 11])
def test_a_step_that_is_not_finite_can_be_repeated(tmp_path, bad, run_config):
    def batches(first):
        for index, (frames, batch) in enumerate(toy_batches(first), first):
            yield frames, batch * math.nan if index == bad else batch

    claim_workdir(tmp_path, run_config)
    with pytest.raises(UserError, match=f"Step {bad + 1} is not finite") as caught:
        run_toy(tmp_path, batches)
    failure = tmp_path / "failure"
    assert str(failure) in str(caught.value)
    told = json.loads((failure / "metrics.json").read_text())
    assert told["step"] == bad + 1
    assert told["loss"] == "nan"
    # Only whole, finite steps were saved or logged.
    assert all(step <= bad for step in checkpoint_steps(tmp_path))
    assert np.isfinite(losses(tmp_path)).all()

    # The folder is a workdir from which the same step fails again.
    claim_workdir(failure, run_config)
    with Checkpoints(failure, keep=1) as checkpoints:
        state = checkpoints.restore(toy_state())
    assert int(state.step) == bad
    with pytest.raises(UserError, match=f"Step {bad + 1} is not finite"):
        run_toy(failure, batches)
    # Once the data are fixed, the run continues like a run without the fault.
    repaired, _ = run_toy(failure)
    undisturbed, _ = run_toy(tmp_path / "undisturbed")
    chex.assert_trees_all_equal(repaired, undisturbed)


def test_final_state_is_evaluated_without_periodic_evaluation(tmp_path):
    """Also with ``every_epochs=0`` the final state is evaluated."""
    schedule = dataclasses.replace(SCHEDULE, evaluate_every_epochs=0)
    _, evaluation = run_toy(tmp_path, schedule=schedule)
    assert evaluation.keys() == {"knn_accuracy"}
    assert [line["step"] for line in metrics(tmp_path) if "epoch" in line] == [12]


def lines_written(workdir) -> int:
    path = workdir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def kill_and_restart(program, workdir, arguments, kills: int, total_lines: int, seed: int):
    """Runs to the end through SIGKILLs at random moments: in start-up, steps and saves."""
    moments = random.Random(seed)
    killed_at = []
    for kill in range(kills):
        process = program.start(workdir, *arguments)
        if kill == 0:
            # Somewhere in start-up.
            time.sleep(moments.uniform(0.5, 3))
        else:
            # Once a random number of lines is there, and a little later.
            wanted = moments.randrange(kill * total_lines // kills)
            while process.poll() is None and lines_written(workdir) <= wanted:
                time.sleep(0.002)
            time.sleep(moments.uniform(0, 0.15))
        process.kill()
        process.communicate()
        if process.returncode == -signal.SIGKILL:
            killed_at.append(lines_written(workdir))
    code, _, err = program.run(workdir, *arguments)
    assert (code, err) == (0, "")
    return killed_at


def test_resume_after_two_kills_is_bitwise(program, finished_run, tmp_path):
    uninterrupted, _ = finished_run
    killed_at = kill_and_restart(
        program, tmp_path / "run", (), kills=2, total_lines=lines_written(uninterrupted), seed=1
    )
    assert len(killed_at) == 2
    assert_same_run(uninterrupted, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_resume_after_ten_kills_is_bitwise(program, tmp_path, seed):
    arguments = ("--config.optimizer.epochs=60", f"--config.seed={seed}")
    assert program.run(tmp_path / "whole", *arguments)[0] == 0
    total = lines_written(tmp_path / "whole")
    killed_at = kill_and_restart(program, tmp_path / "run", arguments, 10, total, seed)
    print(f"killed at lines {killed_at} of {total}")
    assert len(killed_at) == 10
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_sigterm_to_the_program_saves_and_exits_with_143(program, finished_run, tmp_path):
    uninterrupted, _ = finished_run
    # The same steps; slowed down by logging and saving each.
    process = program.start(tmp_path)
    while process.poll() is None and lines_written(tmp_path) < 4:
        time.sleep(0.002)
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143
    message = r"SIGTERM: saved step \d+; the same command continues\.\n"
    assert re.fullmatch(FEW_STEPS + message, err)
    step = int(re.search(r"step (\d+);", err)[1])
    assert checkpoint_steps(tmp_path)[-1] == step < 24
    assert not (tmp_path / "results.json").exists()

    code, out, err = program.run(tmp_path, JAX_LOG_COMPILES="1")
    assert code == 0
    assert json.loads(out.splitlines()[-1]) == json.loads((tmp_path / "results.json").read_text())
    assert_same_run(uninterrupted, tmp_path)
    # One program for the step, whose state came from a checkpoint first and from itself later;
    # and one for the features of either split.
    compiled = re.findall(r"Compiling jit\((\w+)\)", err)
    assert compiled.count("_fun") == 3


def test_a_full_disk_exits_with_one_sentence(program, finished_run, tmp_path):
    process = program.start(tmp_path)
    while process.poll() is None and lines_written(tmp_path) < 6:
        time.sleep(0.002)
    # From here on no file may grow.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.match(r"error: .* cannot be (saved|written) .*File too large", err.splitlines()[-1])
    code, _, err = program.run(tmp_path)
    assert (code, err) == (0, "")
    assert_same_run(finished_run[0], tmp_path)
