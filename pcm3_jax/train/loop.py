"""The training loop: steps, logging, evaluation, checkpoints, and leaving in good order."""

from __future__ import annotations

import collections
import dataclasses
import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from pcm3_jax.errors import UserError, WriteError
from pcm3_jax.runtime.files import write_json
from pcm3_jax.runtime.parallel import wait_for_all
from pcm3_jax.train.checkpoint import CONFIG_FILE, Checkpoints
from pcm3_jax.train.metrics import Telemetry

# Steps that may be under way before the host looks at a loss.
LAG = 2


class Preempted(Exception):
    """SIGTERM came; the state has been saved and the same command continues the run."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When things happen, in steps of ``batch_size`` and epochs of ``steps_per_epoch``.

    ``on_failure`` says what follows when a checkpoint or metrics cannot be written: "stop" or
    "continue".
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
        config: ConfigDict,
        *,
        epochs: int,
        steps_per_epoch: int,
        batch_size: int,
        evaluate_every_epochs: int,
    ) -> Schedule:
        """So many epochs, logged and saved as the configuration says."""
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


def train(
    state: Any,
    step_function: Callable[[Any, Any, Any], tuple[Any, dict[str, jax.Array]]],
    batches: Callable[[int], Iterator[tuple[Any, Any]]],
    evaluate: Callable[[Any], dict[str, float]],
    schedule: Schedule,
    workdir: Path,
    part: str = "",
) -> tuple[Any, dict[str, float]]:
    """Runs from the workdir's last checkpoint, or from ``state``, to the last step.

    Args:
      state: the initial state, with ``step`` and ``finite``.
      step_function: (state, frames, batch) → (state, metrics with "loss").
      batches: endless input from a given step on.
      evaluate: state → metrics, at least "knn_accuracy".
      schedule: when to log, evaluate and save.
      workdir: the run's, where everything is written.
      part: the folder in it of this training, where the run has several.

    Returns:
      The final state and the last evaluation's metrics.

    Raises:
      Preempted: SIGTERM came; when it came with the last step, at the end.
      UserError: a loss was not finite, or the last checkpoint cannot be read.
      WriteError: a checkpoint or metrics cannot be written.
    """
    with (
        _Sigterm() as sigterm,
        Checkpoints(workdir / part, schedule.keep_checkpoints, schedule.on_failure) as checkpoints,
    ):
        restored = checkpoints.restore(state)
        state = state if restored is None else restored
        first = int(state.step)
        with Telemetry(
            workdir / part,
            first,
            schedule.total_steps,
            schedule.batch_size,
            schedule.on_failure,
            active=jax.process_index() == 0,
        ) as telemetry:
            run = _Run(checkpoints, telemetry, evaluate, schedule, workdir, part, sigterm)
            return run.steps(state, step_function, batches(first), first)


class _Run:
    def __init__(self, checkpoints, telemetry, evaluate, schedule, workdir, part, sigterm) -> None:
        self.checkpoints, self.telemetry, self.evaluate = checkpoints, telemetry, evaluate
        self.schedule, self.workdir, self.part, self.sigterm = schedule, workdir, part, sigterm
        # (step, metrics) of steps whose loss the host has not looked at yet.
        self.pending: collections.deque = collections.deque()
        # Seconds spent waiting for input since the last logged step.
        self.waited = 0.0

    def steps(self, state, step_function, batches, first):
        schedule = self.schedule
        evaluation: dict[str, float] = {}
        if first == schedule.total_steps:
            evaluation = self.evaluate(state)
        for step in range(first + 1, schedule.total_steps + 1):
            before = time.perf_counter()
            frames, batch = next(batches)
            self.waited += time.perf_counter() - before
            state, metrics = step_function(state, frames, batch)
            self.pending.append((step, metrics))
            self._look(state, LAG)
            self.telemetry.advance()

            epoch, rest = divmod(step, schedule.steps_per_epoch)
            last = step == schedule.total_steps
            knn = None
            if last or (rest == 0 and _due(epoch, schedule.evaluate_every_epochs)):
                self._look(state, 0)
                evaluation = knn = self.evaluate(state)
                self.telemetry.log_evaluation(step, {"epoch": epoch, **knn})
            if last or (rest == 0 and _due(epoch, schedule.checkpoint_every_epochs)):
                self._save(step, state, knn)
            if not last and self.sigterm.reached(step):
                self._save(step, state, knn)
                if not self.checkpoints.saved(step):
                    raise WriteError(
                        f"SIGTERM came, but step {step} could not be saved; the same command "
                        "continues from the last checkpoint."
                    )
                raise Preempted(f"SIGTERM: saved step {step}; the same command continues.")
        return state, evaluation

    def _save(self, step: int, state, knn: dict[str, float] | None) -> None:
        # Steps count as done once they are checked and logged.
        self._look(state, 0)
        self.checkpoints.save(step, state, knn)

    def _look(self, state, lag: int) -> None:
        """Reads the losses of all but the last ``lag`` steps; logs and checks them."""
        while len(self.pending) > lag:
            step, metrics = self.pending.popleft()
            loss = float(metrics["loss"])
            if not math.isfinite(loss) or not math.isfinite(float(metrics["gradient_norm"])):
                self._fail(step, jax.device_get(metrics), state)
            if step % self.schedule.log_every_steps == 0:
                values = {"loss": loss} | {name: float(v) for name, v in metrics.items()}
                self.telemetry.log_training(step, values, self.waited)
                self.waited = 0.0

    def _fail(self, step: int, metrics, state) -> None:
        """Saves what reproduces a step that was not finite, and says so."""
        values = {name: float(value) for name, value in metrics.items()}
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        folder = self.workdir / "failure"
        if jax.process_index() == 0:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            # As strings: JSON has no infinity.
            write_json(
                folder / "metrics.json", {"step": step} | {k: str(v) for k, v in values.items()}
            )
            # With its configuration the folder is a workdir, whose next step is the bad one.
            shutil.copy(self.workdir / CONFIG_FILE, folder)
        wait_for_all("failure")
        failed = Checkpoints(folder / self.part, keep=1)
        # The step function leaves a state alone from a non-finite step on; not so once that step
        # has been put right.
        failed.save(step - 1, state.replace(finite=state.finite | True))
        failed.close()
        raise UserError(
            f"Step {step} is not finite ({', '.join(bad)}): the state before it is saved in "
            f"{folder}, where the same command with that --workdir repeats the step; try a lower "
            "config.optimizer.learning_rate in another --workdir, or check the data."
        )


def _due(epoch: int, every: int) -> bool:
    return every > 0 and epoch % every == 0


class _Sigterm:
    """Notices SIGTERM, in any of the run's processes and at the same step in all."""

    def __enter__(self) -> _Sigterm:
        self._received = False
        if jax.process_count() == 1:
            self._previous = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(self, exception: type[BaseException] | None, *_) -> None:
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._previous)
            if self._received and exception is None:
                # Too late for a step of this training, but not for what would follow it.
                raise Preempted("SIGTERM: the training had ended; the same command continues.")

    def _receive(self, *_) -> None:
        self._received = True

    def reached(self, step: int) -> bool:
        if jax.process_count() == 1:
            return self._received
        # jax.distributed listens to the signal and agrees on a step.
        return multihost_utils.reached_preemption_sync_point(step)
