"""What a run tells: a progress bar or lines, ``metrics.jsonl``, TensorBoard event files."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar
from tqdm import tqdm

from pcm3_jax.errors import reason, report_failure
from pcm3_jax.runtime.files import write_text

_FLUSH_SECONDS = 10


class Telemetry:
    """Reports one run; in processes other than the first it stays silent.

    Lines of ``metrics.jsonl`` past ``first_step`` are of steps that are about to be taken
    again, and are dropped.  What cannot be written ends the run with a `WriteError` if
    ``on_failure`` is "stop"; if "continue", metrics.jsonl goes on with the next whole line that
    finds room, and the event file ends.
    """

    def __init__(
        self,
        workdir: Path,
        first_step: int,
        total_steps: int,
        batch_size: int,
        on_failure: str,
        *,
        active: bool,
    ) -> None:
        self._workdir = workdir
        self._on_failure = on_failure
        self._active = active
        self._batch_size = batch_size
        self._total = total_steps
        self._clock = (time.perf_counter(), first_step)
        self._bar = None
        self._failing: set[str] = set()
        if not active:
            return
        path = workdir / "metrics.jsonl"
        kept = _lines_until(path, first_step)
        write_text(path, "".join(kept))
        self._file = path.open("a", buffering=1)
        # A kill loses the last seconds of events, but no line of metrics.jsonl.
        self._events: _Events | None = _Events(workdir / "tensorboard", first_step + 1)
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=total_steps * batch_size,
                initial=first_step * batch_size,
                unit=" samples",
                unit_scale=True,
                dynamic_ncols=True,
            )

    def advance(self) -> None:
        """Moves the progress bar by one step."""
        if self._bar is not None:
            self._bar.update(self._batch_size)

    def log_training(self, step: int, metrics: dict[str, float], waited: float) -> None:
        """Records a training step's metrics, the pace since the last one recorded, and memory.

        Args:
          metrics: at least "loss".
          waited: seconds since then in which no step could start for lack of input.
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
        self._record(step, metrics | pace)
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {metrics['loss']:.4g}")
        else:
            left = tqdm.format_interval(left)
            self._print(step, metrics, f"  {rate:.4g} samples/s  {left} left")

    def log_evaluation(self, step: int, metrics: dict[str, float]) -> None:
        """Records what an evaluation after a step has found."""
        self._record(step, metrics)
        self._print(step, metrics)

    def _record(self, step: int, values: dict[str, float]) -> None:
        if not self._active:
            return
        # A line for which there is no room stays in the buffer, or is left out where that is full.
        with self._failure_reported("metrics.jsonl"):
            self._file.write(json.dumps({"step": step, **values}) + "\n")
        if self._events is not None:
            with self._failure_reported("tensorboard"):
                self._add_events(self._events, step, values)

    def _add_events(self, events: _Events, step: int, values: dict[str, float]) -> None:
        try:
            events.add(step, values)
        except OSError:
            self._events = None
            with contextlib.suppress(OSError):
                events.close()
            raise

    @contextlib.contextmanager
    def _failure_reported(self, name: str) -> Iterator[None]:
        try:
            yield
            self._failing.discard(name)
        except OSError as error:
            told = name in self._failing
            self._failing.add(name)
            if not told:
                report_failure(
                    f"{self._workdir / name} cannot be written ({reason(error)})", self._on_failure
                )

    def _print(self, step: int, metrics: dict[str, float], pace: str = "") -> None:
        if not self._active:
            return
        text = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        # Above the bar, where there is one.
        with tqdm.external_write_mode(sys.stdout):
            print(f"step {step}/{self._total}  {text}{pace}", flush=True)

    def __enter__(self) -> Telemetry:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            # That error matters more than what cannot be written on the way out.
            self._on_failure = "continue"
        self.close()

    def close(self) -> None:
        """Writes out what is still in buffers."""
        if self._active:
            if self._bar is not None:
                self._bar.close()
            with contextlib.ExitStack() as stack:
                for name, file in (("metrics.jsonl", self._file), ("tensorboard", self._events)):
                    if file is not None:
                        stack.enter_context(self._failure_reported(name))
                        stack.callback(file.close)


class _Events:
    """TensorBoard's file, in which steps from ``first_step`` on hide those of earlier files.

    It is written in the caller's thread: tensorboardX's own dies on a full disk, after which adding
    an event waits for ever.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        self._writer = RecordWriter(str(folder / name))
        self._write(file_version="brain.Event:2")
        self._write(step=first_step, session_log=SessionLog(status=SessionLog.START))
        self._flushed = time.monotonic()

    def _write(self, **content: Any) -> None:
        self._writer.write(Event(wall_time=time.time(), **content).SerializeToString())

    def add(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._write(step=step, summary=scalar(name, value))
        if time.monotonic() > self._flushed + _FLUSH_SECONDS:
            self._flushed = time.monotonic()
            self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def peak_memory() -> int:
    """Most bytes in use so far: of the first device, or of this process on a CPU."""
    stats = jax.local_devices()[0].memory_stats()
    if stats:
        return stats["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _lines_until(path: Path, step: int) -> list[str]:
    if not path.exists():
        return []
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except ValueError:
            break  # A line that a kill cut short.
    return kept
