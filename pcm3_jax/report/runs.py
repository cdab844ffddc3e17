"""Reads workdirs of any task, finished or still being written."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from pcm3_jax.config import Config, read_config, task_of
from pcm3_jax.errors import UserError, warn
from pcm3_jax.methods import METHODS
from pcm3_jax.registry import TASKS
from pcm3_jax.runtime.files import read_json
from pcm3_jax.settings import require
from pcm3_jax.tasks.task import Task
from pcm3_jax.train.metrics import valid_lines
from pcm3_jax.train.workdir import CONFIG_FILE, METRICS_FILE, PROVENANCE_FILE, RESULTS_FILE

BENCHMARK_FILE = "benchmark.json"


@dataclasses.dataclass(frozen=True)
class Run:
    """The content of a workdir.

    Attributes:
      path: the workdir.
      name: unique name in the report.
      config: the run's configuration; settings newer than the run have their defaults.
      metrics: the lines of ``metrics.jsonl`` of the run itself (""), and of each training inside
        it, by the name of its folder ("draw_0").
      results: results of a finished run, else {}.
      starts: the objects of ``provenance.json``, one per start; [] if there is no such file.
      checkpoints: steps of the kept checkpoints, ascending.
    """

    path: Path
    name: str
    config: Config
    metrics: dict[str, list[dict[str, Any]]]
    results: dict[str, Any]
    starts: list[dict[str, Any]]
    checkpoints: list[int]

    @property
    def task(self) -> Task:
        return task_of(self.config)

    @property
    def logged(self) -> list[dict[str, Any]]:
        """The lines of all metrics."""
        return [line for lines in self.metrics.values() for line in lines]


def read_runs(workdirs: list[Path]) -> tuple[list[Run], dict[str, dict[str, Any]]]:
    """The runs in some workdirs, and the figures of the benchmarks among them by name.

    Raises:
      UserError: a workdir is missing, holds neither run nor benchmark, or has a damaged file.
    """
    runs, benchmarks = [], {}
    for path, name in zip(workdirs, short_names(workdirs), strict=True):
        require(path.is_dir(), f"There is no folder {path}: name the workdirs of runs.")
        if figures := _read(path / BENCHMARK_FILE, dict, "run the benchmark again"):
            benchmarks[name] = figures
        if not figures or (path / CONFIG_FILE).exists():
            runs.append(read_run(path, name))
    return runs, benchmarks


def short_names(paths: list[Path]) -> list[str]:
    """The shortest suffixes that distinguish the paths.

    Raises:
      UserError: a path is named twice.
    """
    parts = [path.resolve().parts for path in paths]
    names = []
    for path, own in zip(paths, parts, strict=True):
        require(parts.count(own) == 1, f"{path} is named twice.")
        count = 1
        while sum(other[-count:] == own[-count:] for other in parts) > 1:
            count += 1
        names.append("/".join(own[-count:]))
    return names


def read_run(path: Path, name: str) -> Run:
    """One run; raises UserError if it cannot be read."""
    config = read_config(path)
    require(
        config.task in TASKS and config.method.name in METHODS,
        f"{path} is a run of task {config.task!r} and method {config.method.name!r}; this version "
        "does not know both.",
    )
    files = [path / METRICS_FILE, *sorted(path.glob(f"*/{METRICS_FILE}"))]
    checkpoints = [state.parent.name for state in (path / "checkpoints").glob("*/state")]
    return Run(
        path=path,
        name=name,
        config=config,
        metrics={
            file.parent.relative_to(path).name: read_metrics(file)
            for file in files
            if file.exists()
        },
        results=_read(path / RESULTS_FILE, dict, "run its command again"),
        starts=_read(path / PROVENANCE_FILE, list, "move it away"),
        checkpoints=sorted(int(step) for step in checkpoints if step.isdigit()),
    )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``, without damaged ones and one that is being written.

    Raises:
      UserError: the file cannot be read.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    metrics = [content for _, content in valid_lines(lines)]
    complete = sum(line.endswith(b"\n") for line in lines)
    if len(metrics) < complete:
        warn(f"{path}: {complete - len(metrics)} damaged lines of {complete} are left out.")
    return metrics


def _read(path: Path, kind: type, remedy: str) -> Any:
    """A file's JSON object, or list of objects; an empty one if there is no file."""
    try:
        content = read_json(path, kind, remedy)
    except FileNotFoundError:
        return kind()
    require(
        kind is dict or all(isinstance(item, dict) for item in content),
        f"{path} is damaged (it holds no list of objects); {remedy}.",
    )
    return content
