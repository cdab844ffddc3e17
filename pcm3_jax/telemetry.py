"""What a run tells: a progress bar or lines, ``metrics.jsonl``, TensorBoard event files."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import jax
import tensorboardX
from tqdm import tqdm


class Telemetry:
    """Reports one run; in processes other than the first it stays silent.

    Lines of ``metrics.jsonl`` past ``first_step`` are of steps that are about to be taken
    again, and are dropped.
    """

    def __init__(
        self, workdir: Path, first_step: int, total_steps: int, batch_size: int, active: bool
    ) -> None:
        self._active = active
        self._batch_size = batch_size
        self._total = total_steps
        self._clock = (time.perf_counter(), first_step)
        self._bar = None
        if not active:
            return
        path = workdir / "metrics.jsonl"
        kept = _lines_until(path, first_step)
        partial = path.with_suffix(".partial")
        partial.write_text("".join(kept))
        partial.replace(path)
        self._file = path.open("a", buffering=1)
        # A kill loses the last seconds of events, but no line of metrics.jsonl.
        self._events = tensorboardX.SummaryWriter(
            str(workdir / "tensorboard"), purge_step=first_step + 1, flush_secs=10
        )
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
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def _print(self, step: int, metrics: dict[str, float], pace: str = "") -> None:
        if not self._active:
            return
        text = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        # Above the bar, where there is one.
        with tqdm.external_write_mode(sys.stdout):
            print(f"step {step}/{self._total}  {text}{pace}", flush=True)

    def close(self) -> None:
        if self._active:
            self._file.close()
            self._events.close()
            if self._bar is not None:
                self._bar.close()


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
