"""Results of runs, as tables of text."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pcm3_jax.config import Config, read_config
from pcm3_jax.inference import shipped_models
from pcm3_jax.registry import TASKS
from pcm3_jax.report.runs import Run
from pcm3_jax.tables import document
from pcm3_jax.tasks.fusion import Fused
from pcm3_jax.tasks.task import Metric
from pcm3_jax.train.workdir import CONFIG_FILE, free_keys

Grid = list[list[str]]
Table = dict[str, Any]
# Keys of settings, and their values as JSON.
Settings = frozenset[tuple[str, str]]

# Settings in which runs of one row may differ, besides `free_keys`.  The runs in ``encoder`` and
# ``fusion.runs`` are compared by their settings, not by their paths.
_SEED_KEYS = {"seed", "task", "encoder", "fusion.runs"}
# Formats figures without a unit.
_TEXT = Metric("", "").text
# The order of rows; other encoders follow.
_ORDER = ("raw coordinates", "random encoder", "pretrained encoder", "fused encoders")


def tables(runs: list[Run], benchmarks: dict[str, dict[str, Any]]) -> list[Table]:
    """Tables with "title", "columns", "rows" of text, and "notes"."""
    found = []
    heading, *rows = compared(runs)
    if rows:
        note = "Runs that differ only in their seed share a row: mean ± standard deviation."
        found.append(_table("Encoders compared", heading, rows, [note]))
    of_task: dict[str, list[Run]] = defaultdict(list)
    papers = [run for run in runs if "rows" in run.results]
    for run in runs:
        if run.results and run not in papers:
            of_task[run.config.task].append(run)
    found += [_results(task, finished) for task, finished in of_task.items()]
    found += [_paper_table(run) for run in papers]
    if benchmarks:
        found.append(_benchmarks(benchmarks))
    return found


def compared(runs: list[Run]) -> Grid:
    """Heading and rows of the finished evaluations: data set, encoder, stream, figures, runs.

    Runs that differ only in their seed share a row, with mean ± standard deviation.  Rows with the
    same data set, encoder and stream also name the settings in which they differ.
    """
    tasks, found = list(TASKS), []
    # The different task settings found for each encoder and task.
    ways: dict[tuple, set[Settings]] = defaultdict(set)
    # Columns are in the order of `TASKS`, not of the runs.
    for run in sorted(runs, key=lambda run: tasks.index(run.config.task)):
        encoder = run.task.compared(run.config)
        if encoder is not None and run.results:
            what, settings = (run.config.data.name, *encoder), _settings(run.config)
            found.append((run, what, settings))
            ways[what, settings, run.config.task].add(_task_settings(run))
    values: dict[tuple, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run, what, settings in found:
        several = len(ways[what, settings, run.config.task]) > 1
        row = values[what, settings | (_task_settings(run) if several else frozenset())]
        for key, metric in metrics_of(run, run.results).items():
            if metric.compared:
                row[metric.heading].append(metric.number(run.results[key]))
    columns = list(dict.fromkeys(heading for row in values.values() for heading in row))
    lines = [["data set", "encoder", "stream", *columns, "runs"]]
    ordered = sorted(values.items(), key=lambda item: (*_ORDER, item[0][0][1]).index(item[0][0][1]))
    for (what, settings), row in ordered:
        alike = [other for others, other in values if others == what]
        differing = set().union(*alike) - set.intersection(*map(set, alike))
        named = ", ".join(sorted("=".join(pair) for pair in settings & differing))
        data, encoder, stream = what
        stream = f"{stream} ({named})" if named else stream
        count = max(map(len, row.values()), default=0)
        lines.append([data, encoder, stream, *(_mean(row[c]) for c in columns), str(count)])
    return lines


def _mean(numbers: list[float]) -> str:
    if not numbers:
        return "–"
    mean = f"{statistics.mean(numbers):.1f}"
    return f"{mean} ± {statistics.stdev(numbers):.1f}" if len(numbers) > 1 else mean


def _settings(config: Config) -> Settings:
    """The settings that identify a row: not those that may differ within it, nor tasks'."""
    of_tasks = {name for task in TASKS.values() for name in task.settings}
    found = set(_some_settings(config, vars(config).keys() - of_tasks))
    named = {f"run {number}": run for number, run in enumerate(config.of(Fused).runs, 1)}
    for prefix, path in {"encoder": config.encoder, **named}.items():
        run = Path(path)
        if path and run.parent.name == "checkpoints":
            found.add((f"{prefix}.step", run.name))
            run = run.parents[1]
        if path and (run / CONFIG_FILE).exists():
            of_run = read_config(run)
            found.add((f"{prefix}.task", json.dumps(of_run.task)))
            found |= {(f"{prefix}.{key}", value) for key, value in _settings(of_run)}
        elif path in shipped_models.MODELS or run.suffix == ".safetensors":
            # Exported files and shipped models are compared by their names, not by their training.
            found.add((prefix, json.dumps(path)))
    return frozenset(found)


def _task_settings(run: Run) -> Settings:
    return _some_settings(run.config, {*run.task.settings})


def _some_settings(config: Config, sections: set[str]) -> Settings:
    return frozenset(
        (key, json.dumps(value))
        for key, value in config.flat().items()
        if key.partition(".")[0] in sections and key not in free_keys(config) | _SEED_KEYS
    )


def markdown(grid: Grid, texts: int = 3) -> str:
    """A Markdown table whose first ``texts`` columns are aligned as text."""
    heading, *rows = grid
    rule = ["---"] * texts + ["---:"] * (len(heading) - texts)
    return "\n".join(f"| {' | '.join(line)} |" for line in (heading, rule, *rows))


def _table(title: str, columns: list[str], rows: Grid, notes: Any = ()) -> Table:
    return {"title": title, "columns": columns, "rows": rows, "notes": list(notes)}


def metrics_of(run: Run, figures: dict[str, Any]) -> dict[str, Metric]:
    """The metrics that are shown of a run's figures: all but errors by frame."""
    numbers = [key for key, value in figures.items() if isinstance(value, (int, float))]
    metrics = {key: run.task.metric(key) for key in numbers}
    return {k: metric for k, metric in metrics.items() if not ("@" in k and metric.unit == "mm")}


def _results(task: str, runs: list[Run]) -> Table:
    metrics: dict[str, Metric] = {}
    for run in runs:
        metrics |= metrics_of(run, run.results)
    columns = ["run", "data set", *(metric.heading for metric in metrics.values())]
    rows = [
        [r.name, r.config.data.name, *(m.text(r.results.get(key)) for key, m in metrics.items())]
        for r in runs
    ]
    return _table(f"Results of {task}", columns, rows)


def _paper_table(run: Run) -> Table:
    results = run.results
    columns, *rows = document.grid(results)
    number = f"Table {results['table']}: " if results["table"] else ""
    return _table(f"{number}{results['title']} ({run.name})", columns, rows, results["notes"])


def _benchmarks(benchmarks: dict[str, dict[str, Any]]) -> Table:
    """A row for each benchmark, or for each program that a benchmark compares."""
    rows: dict[str, dict[str, Any]] = {}
    for name, figures in benchmarks.items():
        contestants = {side: cell for side, cell in figures.items() if isinstance(cell, dict)}
        common = {key: value for key, value in figures.items() if key not in contestants}
        rows |= {f"{name}: {side}": common | cell for side, cell in contestants.items()}
        if not contestants:
            rows[name] = common
    columns = list(dict.fromkeys(key for cell in rows.values() for key in cell))
    texts = [[name, *(_TEXT(cell.get(key)) for key in columns)] for name, cell in rows.items()]
    return _table("Benchmarks", ["", *columns], texts)


def throughput(benchmarks: Iterable[dict[str, Any]]) -> Grid:
    """Heading and rows of benchmarks without a comparison."""
    columns = {
        "device": "device", "type": "dtype", "devices": "devices", "batch size": "batch_size",
        "samples/s per device": "samples_per_second_per_device", "step (s)": "step_seconds",
    }  # fmt: skip
    # Comparisons with PyTorch have no top-level "step_seconds".
    alone = [figures for figures in benchmarks if "step_seconds" in figures]
    alone.sort(key=lambda figures: (figures["devices"], figures["batch_size"]))
    rows = [
        [*(_TEXT(one[key]) for key in columns.values()), f"{one['peak_memory_gb']:.3g}"]
        for one in alone
    ]
    return [[*columns, "memory (GB)"], *rows]
