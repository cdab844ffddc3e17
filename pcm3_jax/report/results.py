"""What runs found, as tables of text."""

from __future__ import annotations

from typing import Any

from pcm3_jax.report import summary
from pcm3_jax.report.runs import Run
from pcm3_jax.tables import document as paper_tables

Table = dict[str, Any]

_PER_CENT = ("knn_accuracy", "ridge_accuracy", "top1", "top5", "top1_std", "frame_accuracy")
_NAMES = {
    "knn_accuracy": "1-NN",
    "ridge_accuracy": "ridge",
    "top1_std": "± top1",
    "frame_accuracy": "frames",
    "zero_velocity": "standing still",
}


def tables(runs: list[Run], benchmarks: dict[str, dict[str, Any]]) -> list[Table]:
    """Tables with "title", "columns", "rows" of text, and "notes"."""
    found = []
    evaluations = summary.grid([run.path for run in runs])
    if len(evaluations) > 1:
        note = "Runs that differ in their seed alone share a row: mean ± standard deviation."
        found.append(_table("Encoders compared", evaluations[0], evaluations[1:], [note]))
    for task in dict.fromkeys(run.config.task for run in runs):
        of_task = [run for run in runs if run.config.task == task]
        found += _paper_tables(of_task) if task == "table" else _results(task, of_task)
    if benchmarks:
        found.append(_benchmarks(benchmarks))
    return found


def _table(title: str, columns: list[str], rows: list[list[str]], notes: Any = ()) -> Table:
    return {"title": title, "columns": columns, "rows": rows, "notes": list(notes)}


def _benchmarks(benchmarks: dict[str, dict[str, Any]]) -> Table:
    """A row for each benchmark; for one that compares with peers, a row for each contestant."""
    rows: dict[str, dict[str, Any]] = {}
    for name, figures in benchmarks.items():
        contestants = {side: cell for side, cell in figures.items() if isinstance(cell, dict)}
        common = {key: value for key, value in figures.items() if key not in contestants}
        rows |= {f"{name}: {side}": common | cell for side, cell in contestants.items()}
        if not contestants:
            rows[name] = common
    columns = list(dict.fromkeys(key for cell in rows.values() for key in cell))
    texts = [[name, *(_text(cell.get(key)) for key in columns)] for name, cell in rows.items()]
    return _table("Benchmarks", ["", *columns], texts)


def _results(task: str, runs: list[Run]) -> list[Table]:
    finished = [(run, run.results) for run in runs if run.results is not None]
    # Errors by frame and accuracies by draw are many; the curves and results.json have them.
    keys = dict.fromkeys(
        key
        for _, results in finished
        for key, value in results.items()
        if isinstance(value, (int, float)) and not key.startswith(("mpjpe@", "zero_velocity@"))
    )
    if not keys:
        return []
    rows = [
        [run.name, run.config.data.name, *(_value(key, results.get(key)) for key in keys)]
        for run, results in finished
    ]
    return [_table(f"Results of {task}", ["run", "data set", *map(heading, keys)], rows)]


def heading(key: str) -> str:
    """The name and unit of a result."""
    name = _NAMES.get(key, key)
    if key in _PER_CENT or key.startswith("map_"):
        return f"{name} (%)"
    return f"{name} (mm)" if key in ("mpjpe", "zero_velocity") else name


def _value(key: str, value: Any) -> str:
    if isinstance(value, (int, float)) and (key in _PER_CENT or key.startswith("map_")):
        return f"{100 * value:.1f}"
    return _text(value)


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _paper_tables(runs: list[Run]) -> list[Table]:
    found = []
    for run in runs:
        if run.results is not None:
            columns, *rows = paper_tables.grid(run.results)
            title = f"Table {run.results['table']}: {run.results['title']} ({run.name})"
            found.append(_table(title, columns, rows, run.results["notes"]))
    return found
