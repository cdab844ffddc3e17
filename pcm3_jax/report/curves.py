"""What runs logged, as curves over the optimizer's steps."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from pcm3_jax.report.runs import Run

# Points of one curve; more cannot be told apart on a screen.
MOST_POINTS = 600


class Quantity(NamedTuple):
    """How a logged metric is shown: its title, its unit, and what a value is multiplied by."""

    title: str
    unit: str = ""
    factor: float = 1


LEARNING = {
    "loss": Quantity("Loss"),
    "knn_accuracy": Quantity("1-NN accuracy on the test split", "%", 100),
    "mask_mse": Quantity("Squared error of masked coordinates", "m²"),
    "kl": Quantity("Distillation"),
    "distillation": Quantity("Mutual distillation"),
    "nce_intra": Quantity("Contrast, intra view"),
    "nce_mask": Quantity("Contrast, masked view"),
    "nce_predict": Quantity("Contrast, predicted view"),
    "nce_inter": Quantity("Contrast, mixed view"),
    "gradient_norm": Quantity("Norm of the gradient"),
}
MACHINE = {
    "samples_per_second": Quantity("Throughput", "samples/s"),
    "peak_memory_gb": Quantity("Peak memory", "GB"),
    "input_wait_share": Quantity("Time spent waiting for input", "%", 100),
}
_NO_CURVES = ("step", "epoch", "seconds_left", "sequences")
# Shown even while they are a single point.
_ALWAYS = ("loss", "knn_accuracy")


def charts(runs: list[Run]) -> dict[str, list[dict[str, Any]]]:
    """Charts of "learning" and of "machine", each with a curve for every run that logged it."""
    names = {
        name for run in runs for lines in run.metrics.values() for line in lines for name in line
    }
    others = sorted(names - LEARNING.keys() - MACHINE.keys() - set(_NO_CURVES))
    learning = LEARNING | {name: _by_name(name) for name in others}
    return {
        group: [chart for name, how in metrics.items() if (chart := _chart(runs, name, how))]
        for group, metrics in (("learning", learning), ("machine", MACHINE))
    }


def _by_name(name: str) -> Quantity:
    if name.startswith(("top", "map_", "frame_accuracy")):
        return Quantity(name, "%", 100)
    if name.startswith(("mpjpe", "zero_velocity")):
        return Quantity(name, "mm")
    return Quantity(name)


def _chart(runs: list[Run], name: str, how: Quantity) -> dict[str, Any] | None:
    series: list[dict[str, Any]] = []
    for index, run in enumerate(runs):
        for inner, lines in run.metrics.items():
            points = _points(lines, name, how.factor)
            if points:
                label = f"{run.name} · {inner}" if inner else run.name
                series.append({"run": index, "label": label, "points": points})
    shown = name in _ALWAYS or any(len(one["points"]) > 1 for one in series)
    if not series or not shown:
        return None
    return {"name": name, "title": how.title, "unit": how.unit, "series": series}


def _points(lines: list[dict[str, Any]], name: str, factor: float) -> list[list[float]]:
    points = [
        [line["step"], factor * line[name]]
        for line in lines
        if isinstance(line.get(name), (int, float)) and math.isfinite(line[name])
    ]
    stride = -(-len(points) // MOST_POINTS)
    # Counted from the end, so that the last value is the run's last.
    return points[::-1][:: max(stride, 1)][::-1]
