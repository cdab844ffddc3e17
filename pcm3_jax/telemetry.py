"""What a run tells: a progress bar or lines, ``metrics.jsonl``, TensorBoard event files."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

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
        if not active:
            return
        path = workdir / "metrics.jsonl"
        kept = _lines_until(path, first_step)
        partial = path.with_suffix(".partial")
        partial.write_text("".join(kept))
        partial.replace(path)
        self._file = path.open("a", buffering=1)
        self._events = tensorboardX.SummaryWriter(
            str(workdir / "tensorboard"), purge_step=first_step + 1
        )
        self._bar = None
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
        if self._active and self._bar is not None:
            self._bar.update(self._batch_size)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Records values of a step taken, and shows them."""
        if not self._active:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._events.add_scalar(name, value, step)
        shown = {name: f"{value:.4g}" for name, value in values.items()}
        if self._bar is not None:
            self._bar.set_postfix(shown)
        else:
            text = "  ".join(f"{name} {value}" for name, value in shown.items())
            print(f"step {step}/{self._total}  {text}", flush=True)

    def rate(self, step: int) -> dict[str, float]:
        """Samples a second since the last call, and the seconds left at that rate."""
        now, (then, last) = time.perf_counter(), self._clock
        self._clock = (now, step)
        rate = (step - last) * self._batch_size / max(now - then, 1e-9)
        left = (self._total - step) * self._batch_size / max(rate, 1e-9)
        return {"samples_per_second": rate, "seconds_left": left}

    def close(self) -> None:
        if self._active:
            self._file.close()
            self._events.close()
            if self._bar is not None:
                self._bar.close()


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
