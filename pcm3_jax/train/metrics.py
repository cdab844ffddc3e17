"""Run logging: progress bar or lines, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar
from tqdm import tqdm

from pcm3_jax.errors import NO_ROOM, UserError, reason, report_failure
from pcm3_jax.runtime.files import write_text
from pcm3_jax.train.workdir import METRICS_FILE

_FLUSH_SECONDS = 10


class Telemetry:
    """Logs one training, from process 0 only.

    Existing lines of ``metrics.jsonl`` after ``first_step`` are dropped, because the resumed run
    repeats their steps.  If a file cannot be written, ``on_failure="stop"`` ends the run with a
    `WriteError`.  With "continue", logging to metrics.jsonl resumes once there is disk space;
    logging to TensorBoard does not.

    Args:
      workdir: folder of the files.
      first_step, total_steps: number of steps already done, and in total.
      batch_size: samples per step.
      on_failure: "stop" or "continue".
    """

    def __init__(
        self, workdir: Path, first_step: int, total_steps: int, batch_size: int, on_failure: str
    ) -> None:
        self._workdir, self._on_failure = workdir, on_failure
        self._active = jax.process_index() == 0
        self._batch_size, self._total = batch_size, total_steps
        self._clock = (time.perf_counter(), first_step)
        self._failing: set[str] = set()
        self._bar = tqdm(
            total=total_steps * batch_size,
            initial=first_step * batch_size,
            unit=" samples",
            unit_scale=True,
            dynamic_ncols=True,
            # None disables the bar unless the output is a terminal.
            disable=None if self._active else True,
        )
        if self._active:
            path = workdir / METRICS_FILE
            try:
                write_text(path, "".join(_lines_until(path, first_step)))
                self._file = path.open("a", buffering=1, encoding="utf-8")
            except OSError as error:
                if error.errno in NO_ROOM:
                    raise
                raise UserError(
                    f"{path} cannot be used ({reason(error)}): move it away."
                ) from error
            self._events: _Events | None = _Events(workdir / "tensorboard", first_step + 1)

    def advance(self) -> None:
        """Moves the progress bar by one step."""
        self._bar.update(self._batch_size)

    def log_training(self, step: int, metrics: dict[str, float], waited: float) -> None:
        """Logs a step's metrics, the throughput since the last logged step, and peak memory.

        Args:
          step: from 1.
          metrics: at least "loss".
          waited: seconds spent waiting for input since the last logged step.
        """
        now, (then, last) = time.perf_counter(), self._clock
        self._clock = (now, step)
        seconds = max(now - then, 1e-9)
        rate = (step - last) * self._batch_size / seconds
        left = (self._total - step) * self._batch_size / rate
        pace = {
            "samples_per_second": rate,
            "seconds_left": left,
            "input_wait_share": waited / seconds,
            "peak_memory_gb": peak_memory() / 1e9,
        }
        self._write(step, metrics | pace)
        if self._bar.disable:
            self._print(step, metrics, f"  {rate:.4g} samples/s  {tqdm.format_interval(left)} left")
        else:
            self._bar.set_postfix_str(f"loss {metrics['loss']:.4g}")

    def log_evaluation(self, step: int, metrics: dict[str, float]) -> None:
        """Logs the metrics of an evaluation after a step."""
        self._write(step, metrics)
        self._print(step, metrics)

    def _write(self, step: int, values: dict[str, float]) -> None:
        if not self._active:
            return
        # On a full disk lines stay in the buffer; once the buffer is full, lines are lost.
        with self._failure_reported(METRICS_FILE):
            self._file.write(json.dumps({"step": step, **values}) + "\n")
        if self._events is not None:
            with self._failure_reported("tensorboard"):
                try:
                    self._events.add(step, values)
                except OSError:
                    failed, self._events = self._events, None
                    with contextlib.suppress(OSError):
                        failed.close()
                    raise

    @contextlib.contextmanager
    def _failure_reported(self, name: str) -> Iterator[None]:
        """Reports a failed write of a file once; again only after a successful write."""
        try:
            yield
            self._failing.discard(name)
        except BrokenPipeError:
            raise
        except OSError as error:
            if name not in self._failing:
                self._failing.add(name)
                what = "The standard output" if name == "stdout" else self._workdir / name
                report_failure(f"{what} cannot be written ({reason(error)})", self._on_failure)

    def _print(self, step: int, metrics: dict[str, float], pace: str = "") -> None:
        if self._active:
            text = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            # Above the progress bar, if any.
            with self._failure_reported("stdout"), tqdm.external_write_mode(sys.stdout):
                print(f"step {step}/{self._total}  {text}{pace}", flush=True)

    def __enter__(self) -> Telemetry:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            # A failed write while closing must not hide the original error.
            self._on_failure = "continue"
        self.close()

    def close(self) -> None:
        """Flushes and closes the files."""
        self._bar.close()
        if self._active:
            with contextlib.ExitStack() as stack:
                for name, file in ((METRICS_FILE, self._file), ("tensorboard", self._events)):
                    if file is not None:
                        stack.enter_context(self._failure_reported(name))
                        stack.callback(file.close)


class _Events:
    """A TensorBoard event file that supersedes earlier files' events from ``first_step`` on.

    Events are written synchronously: an error such as a full disk would end tensorboardX's writer
    thread, and every later attempt to add an event would block forever.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        self._writer = RecordWriter(str(folder / name))
        self.close = self._writer.close
        self._write(file_version="brain.Event:2")
        self._write(step=first_step, session_log=SessionLog(status=SessionLog.START))
        self._flushed = time.monotonic()

    def _write(self, **content: Any) -> None:
        self._writer.write(Event(wall_time=time.time(), **content).SerializeToString())

    def add(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._write(step=step, summary=scalar(name, value))
        # Flushed every few seconds only: a killed process loses the events since the last flush.
        if time.monotonic() > self._flushed + _FLUSH_SECONDS:
            self._flushed = time.monotonic()
            self._writer.flush()


def peak_memory() -> int:
    """Peak memory in bytes so far: of the first device or, on CPU, of this process."""
    stats = jax.local_devices()[0].memory_stats()
    if stats:
        return stats["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def valid_lines(lines: Iterable[bytes]) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each line of a ``metrics.jsonl`` with its content, without damaged and truncated ones."""
    for line in lines:
        try:
            content = json.loads(line)
            if line.endswith(b"\n") and type(content["step"]) is int:
                yield line, content
        except (ValueError, TypeError, KeyError, RecursionError):
            continue


def _lines_until(path: Path, step: int) -> Iterator[str]:
    """The valid lines of metrics.jsonl up to a step."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else ()
    for line, content in valid_lines(lines):
        if content["step"] <= step:
            yield line.decode()
