"""What a device did according to a trace of `jax.profiler`: kernels, and the gaps between them."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from pcm3_jax.settings import require


class Kernel(NamedTuple):
    """One execution of a kernel; times in nanoseconds."""

    name: str
    start: float
    end: float


def summarise(folder: Path, steps: int) -> dict[str, Any]:
    """Counts and times of the kernels of a trace.

    Args:
      folder: given to `jax.profiler.trace`.
      steps: that the trace spans.

    Returns:
      Kernels and seconds of a step, the share of the time in which a kernel ran, the seconds of
      gaps in a step and the longest gap, and {name: (runs, seconds) in a step} of the ten kernels
      that took longest.

    Raises:
      UserError: the trace has no kernels.
    """
    kernels = sorted(_kernels(folder), key=lambda kernel: kernel.start)
    require(bool(kernels), f"The trace in {folder} has no kernels: the profiler saw no device.")
    seconds: dict[str, float] = collections.defaultdict(float)
    runs: collections.Counter[str] = collections.Counter()
    gaps, end = [], kernels[0].start
    for kernel in kernels:
        seconds[kernel.name] += (kernel.end - kernel.start) * 1e-9
        runs[kernel.name] += 1
        gaps.append(max(kernel.start - end, 0) * 1e-9)
        end = max(end, kernel.end)
    whole = (end - kernels[0].start) * 1e-9
    longest = sorted(seconds, key=lambda name: -seconds[name])[:10]
    return {
        "kernels_per_step": len(kernels) / steps,
        "step_seconds": whole / steps,
        "busy_share": 1 - sum(gaps) / whole,
        "gap_seconds_per_step": sum(gaps) / steps,
        "longest_gap_seconds": max(gaps),
        "longest": {name: (runs[name] / steps, seconds[name] / steps) for name in longest},
    }


def _kernels(folder: Path) -> Iterator[Kernel]:
    """Those of the device's streams; on a CPU what XLA's threads ran, which may be nested."""
    (path,) = folder.glob("plugins/profile/*/*.xplane.pb")
    planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    for plane in devices or planes:
        for line in plane.lines:
            # Of GPUs, TPUs and CPUs.
            if line.name.startswith(("Stream", "XLA Ops", "tf_XLA")):
                for event in line.events:
                    yield Kernel(event.name, event.start_ns, event.start_ns + event.duration_ns)
