"""The training loop: steps, logging, evaluation, checkpoints, SIGTERM and non-finite losses."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import jax
from jax.experimental import multihost_utils

from pcm3_jax.errors import UserError, WriteError
from pcm3_jax.runtime.files import write_json
from pcm3_jax.runtime.parallel import wait_for_all
from pcm3_jax.settings import Config
from pcm3_jax.train.checkpoint import Checkpoints
from pcm3_jax.train.metrics import Telemetry
from pcm3_jax.train.workdir import CONFIG_FILE

# Number of steps by which the device may be ahead of the losses that the host has read.
LAG = 2

Metrics = dict[str, jax.Array]


class Preempted(Exception):
    """SIGTERM was received; the state is saved, and the same command continues the run."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When to log, evaluate and save, in steps of ``batch_size`` samples.

    ``on_failure`` ("stop" or "continue") applies when a checkpoint or metrics cannot be written.
    """

    total_steps: int
    steps_per_epoch: int
    batch_size: int
    log_every_steps: int
    checkpoint_every_epochs: int
    keep_checkpoints: int
    on_failure: str
    evaluate_every_epochs: int

    @classmethod
    def of(
        cls,
        config: Config,
        *,
        epochs: int,
        steps_per_epoch: int,
        batch_size: int,
        evaluate_every_epochs: int,
    ) -> Schedule:
        """``epochs`` epochs, logged and saved as the configuration says."""
        return cls(
            total_steps=epochs * steps_per_epoch,
            steps_per_epoch=steps_per_epoch,
            batch_size=batch_size,
            log_every_steps=config.log_every_steps,
            checkpoint_every_epochs=config.checkpoint.every_epochs,
            keep_checkpoints=config.checkpoint.keep,
            on_failure=config.checkpoint.on_failure,
            evaluate_every_epochs=evaluate_every_epochs,
        )

    def due(self, step: int, every_epochs: int) -> bool:
        """Whether ``step`` is the last one or ends a multiple of ``every_epochs`` epochs."""
        due = every_epochs > 0 and step % (every_epochs * self.steps_per_epoch) == 0
        return due or step == self.total_steps


def train(
    state: Any,
    step_function: Callable[[Any, Any, Any], tuple[Any, Metrics]],
    batches: Callable[[int], Iterator[tuple[Any, Any]]],
    evaluate: Callable[[Any], dict[str, float]],
    schedule: Schedule,
    workdir: Path,
    part: str = "",
) -> tuple[Any, dict[str, float]]:
    """Runs from the workdir's last checkpoint, or from ``state``, to the last step.

    Args:
      state: the initial state, with ``step`` and ``finite``.
      step_function: (state, frames, batch) → (state, metrics with "loss" and "gradient_norm").
      batches: first step → infinite iterator over (frames, batch).
      evaluate: state → metrics; the best checkpoint has the highest "knn_accuracy".
      schedule: when to log, evaluate and save.
      workdir: of the run.
      part: subfolder of this training if the run has several trainings.

    Returns:
      The final state and the last evaluation's metrics.

    Raises:
      Preempted: SIGTERM was received; in the last step, raised after the training has ended.
      UserError: a loss or gradient is not finite, or the last checkpoint cannot be read.
      WriteError: a checkpoint or metrics cannot be written.
    """
    folder = workdir / part
    # (step, metrics) of steps whose loss the host has not read yet.
    pending: collections.deque[tuple[int, Metrics]] = collections.deque()
    waited = 0.0  # seconds spent waiting for input since the last logged step

    def read_losses(lag: int) -> None:
        """Checks the losses of all but the last ``lag`` steps, and logs those that are due."""
        nonlocal waited
        while len(pending) > lag:
            step, metrics = pending.popleft()
            if not all(math.isfinite(float(metrics[k])) for k in ("loss", "gradient_norm")):
                _fail(step, metrics, state, workdir, part)
            if step % schedule.log_every_steps == 0:
                values = {name: float(metrics[name]) for name in ("loss", *metrics)}
                telemetry.log_training(step, values, waited)
                waited = 0.0

    with (
        _sigterm() as preempted,
        Checkpoints(folder, schedule.keep_checkpoints, schedule.on_failure) as checkpoints,
    ):
        restored = checkpoints.restore(state)
        state = state if restored is None else restored
        first, last = int(state.step), schedule.total_steps
        evaluation = evaluate(state) if first >= last else {}
        inputs = batches(first)
        with Telemetry(folder, first, last, schedule.batch_size, schedule.on_failure) as telemetry:
            for step in range(first + 1, last + 1):
                start = time.perf_counter()
                frames, batch = next(inputs)
                waited += time.perf_counter() - start
                state, metrics = step_function(state, frames, batch)
                pending.append((step, metrics))
                read_losses(LAG)
                telemetry.advance()

                knn = None
                if schedule.due(step, schedule.evaluate_every_epochs):
                    read_losses(0)
                    evaluation = knn = evaluate(state)
                    epoch = step // schedule.steps_per_epoch
                    telemetry.log_evaluation(step, {"epoch": epoch, **knn})
                stop = step < last and preempted(step)
                if stop or schedule.due(step, schedule.checkpoint_every_epochs):
                    # All steps up to a checkpoint are checked and logged before it is saved.
                    read_losses(0)
                    checkpoints.save(step, state, knn)
                if stop:
                    if not checkpoints.saved(step):
                        raise WriteError(
                            f"SIGTERM: step {step} could not be saved; the same command "
                            "continues from the last checkpoint."
                        )
                    raise Preempted(f"SIGTERM: saved step {step}; the same command continues.")
    return state, evaluation


def _fail(step: int, metrics: Metrics, state: Any, workdir: Path, part: str) -> NoReturn:
    """Saves a workdir that reproduces a non-finite step, and raises a UserError that names it."""
    values = {name: float(value) for name, value in metrics.items()}
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    folder = workdir / "failure"
    if jax.process_index() == 0:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        # As strings, because JSON has no infinity.
        texts = {name: str(value) for name, value in values.items()}
        write_json(folder / "metrics.json", {"step": step, **texts})
        # With the configuration the folder is a workdir whose next step is the non-finite one.
        shutil.copy(workdir / CONFIG_FILE, folder)
    wait_for_all("failure")
    with Checkpoints(folder / part, keep=1) as checkpoints:
        # The step function does not change a state with ``finite=False``.  Reset it, so that the
        # run continues from this checkpoint once the cause is fixed.
        checkpoints.save(step - 1, state.replace(finite=state.finite | True))
    raise UserError(
        f"Step {step} is not finite ({', '.join(bad)}): the state before it is saved in "
        f"{folder}; the same command with that --workdir repeats the step; check the data, or try "
        "a lower config.optimizer.learning_rate in another --workdir."
    )


@contextlib.contextmanager
def _sigterm() -> Iterator[Callable[[int], bool]]:
    """Yields a function of the step: whether to stop after it, equal in all processes."""
    if jax.process_count() > 1:
        # jax.distributed handles the signal, and the processes agree on a step.
        yield multihost_utils.reached_preemption_sync_point
        return
    received: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        yield lambda _: bool(received)
    finally:
        signal.signal(signal.SIGTERM, previous)
    if received:
        # Received after the last check: this training is complete, but no other one may start.
        raise Preempted(
            "SIGTERM: the training has ended; the same command continues with the rest of the run."
        )
