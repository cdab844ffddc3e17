"""Curves of logged metrics over optimizer steps, and of a step's time over its frames."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

from pcm3_jax.report.runs import Run

# Points of one curve; a screen cannot resolve more.
MOST_POINTS = 600
# Drawn large and first, even with a single point.
_LARGE = ("loss", "knn_accuracy")
# Titles and units of logged values that are not metrics of a task.
_TITLES = {
    "loss": ("Loss", ""),
    "mask_mse": ("Squared error of masked coordinates", "m²"),
    "kl": ("Distillation", ""),
    "distillation": ("Mutual distillation", ""),
    "nce_intra": ("Contrast, intra view", ""),
    "nce_mask": ("Contrast, masked view", ""),
    "nce_predict": ("Contrast, predicted view", ""),
    "nce_inter": ("Contrast, mixed view", ""),
    "gradient_norm": ("Norm of the gradient", ""),
}
_MACHINE = {
    "samples_per_second": ("Throughput", "samples/s"),
    "peak_memory_gb": ("Peak memory", "GB"),
    "input_wait_share": ("Time spent waiting for input", "%"),
}
_NO_CURVES = {"step", "epoch", "seconds_left", "sequences"}

Chart = dict[str, Any]


def charts(runs: list[Run], benchmarks: dict[str, dict[str, Any]]) -> dict[str, list[Chart]]:
    """Charts of "learning" and of "machine", each with a curve for every run that logged it.

    If there are benchmarks, the last chart of "machine" is the time of a step.
    """
    logged = {name for run in runs for line in run.logged for name in line}
    names = dict.fromkeys([*_LARGE, *_TITLES, *_MACHINE, *sorted(logged - _NO_CURVES)])
    found = {name: chart for name in names if name in logged and (chart := _chart(runs, name))}
    machine = [found.pop(name) for name in _MACHINE if name in found]
    return {"learning": list(found.values()), "machine": machine + _cost(benchmarks)}


def _chart(runs: list[Run], name: str) -> Chart | None:
    first = next(run for run in runs if any(name in line for line in run.logged))
    metric = first.task.metric(name)
    title, unit = (_TITLES | _MACHINE).get(name, (metric.name, metric.unit))
    series: list[dict[str, Any]] = []
    for index, run in enumerate(runs):
        for inner, lines in run.metrics.items():
            if points := _points(lines, name, 100 if unit == "%" else 1):
                label = f"{run.name} · {inner}" if inner else run.name
                series.append({"run": index, "label": label, "points": points})
    large = name in _LARGE
    if not series or not (large or any(len(one["points"]) > 1 for one in series)):
        return None
    return {
        "name": name, "title": title, "unit": unit, "across": "optimizer step", "large": large,
        "series": series,
    }  # fmt: skip


def _points(lines: list[dict[str, Any]], name: str, factor: float) -> list[list[float]]:
    points = [
        [line["step"], factor * line[name]]
        for line in lines
        if isinstance(line.get(name), (int, float)) and math.isfinite(line[name])
    ]
    stride = max(math.ceil(len(points) / MOST_POINTS), 1)
    # Counted from the end, to keep the last value.
    return points[::-stride][::-1]


def _cost(benchmarks: dict[str, dict[str, Any]]) -> list[Chart]:
    """A chart of a step's time over the total number of frames in it, per device.

    Benchmarks that differ only in the batch size form a curve, and so do those that differ only in
    the frames per sequence.  A curve needs two benchmarks; without curves the list is empty.
    """
    curves: dict[str, dict[float, float]] = defaultdict(dict)
    for figures in benchmarks.values():
        # A comparison with PyTorch has times per program instead.
        if "step_seconds" not in figures:
            continue
        rows, frames = figures["batch_size"] / figures["devices"], figures["frames"]
        network = "hidden {hidden}, {dtype}, {device}".format(**figures)
        if figures["device"] == "cpu" and figures["devices"] > 1:
            # Virtual devices share the cores, so this is not the time of one device.
            network += f" in {figures['devices']}"
        for fixed in (f"{frames} frames a sequence", f"batches of {rows:g}"):
            curves[f"{fixed}: {network}"][rows * frames] = figures["step_seconds"]
    found = [(label, points) for label, points in curves.items() if len(points) > 1]
    series = [
        {"run": index, "label": label, "points": [list(point) for point in sorted(points.items())]}
        for index, (label, points) in enumerate(found)
    ]
    chart = {
        "name": "step_seconds", "title": "Time of a step", "unit": "s",
        "across": "frames in a step", "series": series,
    }  # fmt: skip
    return [chart] if series else []
