"""What runs logged, as curves over the optimizer's steps; and what a step costs, over its size."""

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


def charts(
    runs: list[Run], benchmarks: dict[str, dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """Charts of "learning" and of "machine", each with a curve for every run that logged it.

    The latter end with what a step costs, if benchmarks show it.
    """
    names = {
        name for run in runs for lines in run.metrics.values() for line in lines for name in line
    }
    others = sorted(names - LEARNING.keys() - MACHINE.keys() - set(_NO_CURVES))
    learning = LEARNING | {name: _by_name(name) for name in others}
    found = {
        group: [chart for name, how in metrics.items() if (chart := _chart(runs, name, how))]
        for group, metrics in (("learning", learning), ("machine", MACHINE))
    }
    found["machine"] += _cost(benchmarks)
    return found


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
    return {
        "name": name, "title": how.title, "unit": how.unit, "across": "optimizer step",
        "series": series,
    }  # fmt: skip


def _cost(benchmarks: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """A chart of a step's time over its frames on one device, all sequences' together.

    Benchmarks that differ in nothing but the batch size make a curve, and those that differ in
    nothing but the frames of a sequence another.  Without two such benchmarks there is no chart.
    """
    curves: dict[str, set[tuple[float, float]]] = {}
    for figures in benchmarks.values():
        # A comparison with peers has times of each instead.
        if "step_seconds" not in figures:
            continue
        rows, frames = figures["batch_size"] / figures["devices"], figures["frames"]
        network = "hidden {hidden}, {dtype}, {device}".format(**figures)
        if figures["device"] == "cpu" and figures["devices"] > 1:
            # They share the cores, so that it is not one device's time.
            network += f" in {figures['devices']}"
        point = rows * frames, figures["step_seconds"]
        for fixed in (f"{frames} frames a sequence", f"batches of {rows:g}"):
            curves.setdefault(f"{fixed}: {network}", set()).add(point)
    found = [(label, sorted(points)) for label, points in curves.items() if len(dict(points)) > 1]
    series = [
        {"run": index, "label": label, "points": [list(point) for point in points]}
        for index, (label, points) in enumerate(found)
    ]
    chart = {
        "name": "step_seconds", "title": "Time of a step", "unit": "s",
        "across": "frames in a step", "series": series,
    }  # fmt: skip
    return [chart] if series else []


def _points(lines: list[dict[str, Any]], name: str, factor: float) -> list[list[float]]:
    points = [
        [line["step"], factor * line[name]]
        for line in lines
        if isinstance(line.get(name), (int, float)) and math.isfinite(line[name])
    ]
    stride = -(-len(points) // MOST_POINTS)
    # Counted from the end, so that the last value is the run's last.
    return points[::-1][:: max(stride, 1)][::-1]
