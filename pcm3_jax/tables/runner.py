"""Task "table": plans and makes the runs of a table's cells, which `paper` defines.

All runs are in one folder, which tables can share.  A run is identified by a fingerprint of its
settings, not by its folder's name: cells and tables that need the same run share it, and finished
runs are reused.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import re
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax

from pcm3_jax.data import recordings
from pcm3_jax.errors import Busy, UserError
from pcm3_jax.methods import METHODS, method_of
from pcm3_jax.methods.optimizer import scaled_to_batch
from pcm3_jax.runtime.files import read_json
from pcm3_jax.runtime.parallel import Devices, agreed, wait_for_all
from pcm3_jax.settings import Config, Section, require, section, setting
from pcm3_jax.tables import document as documents
from pcm3_jax.tables.paper import TABLES, Column, Row, Table, Term, benchmarks, comparison
from pcm3_jax.tables.scale import scaled
from pcm3_jax.tasks.common import duration
from pcm3_jax.tasks.fusion import Fused
from pcm3_jax.tasks.task import Results, Task, run_task
from pcm3_jax.train.cost import step_seconds
from pcm3_jax.train.workdir import CONFIG_FILE, RESULTS_FILE, free_keys, read_config

# Polling interval for the results of a run that another process is making.
_WAITING_SECONDS = 30


@section
class Tables(Section):
    """Settings of the task "table"."""

    number: int = setting(
        1, "table of the paper; 0 compares encoders of config.data.name", low=0, high=10
    )
    scale: Literal["paper", "small"] = setting(
        "paper", "small: small networks on the generated data (tables/scale.py)"
    )
    seeds: tuple[int, ...] = setting(
        (0,), "seeds of the runs; they replace config.seed", low=0, high=2**32 - 1, free=True
    )
    data: tuple[str, ...] = setting((), 'data sets that replace the paper\'s; "A>B" pretrains on A')
    streams: tuple[str, ...] = setting(
        (), "streams that table 0 pretrains and fuses; () is config.views.stream", free=True
    )
    cells: str = setting(
        "", "regular expression: run only cells whose ROW/COLUMN matches", free=True
    )
    runs: str = setting("", 'folder of the runs; "" is "runs" in the workdir', free=True)

    def check(self) -> None:
        seeds = self.seeds
        require(
            0 < len(seeds) == len(set(seeds)),
            f"config.tables.seeds is {seeds}, but must be one or more different numbers.",
        )
        data = self.data
        require(
            len(set(data)) == len(data)
            and all(re.fullmatch("[^>]+(>[^>]+)?", name) for name in data),
            f"config.tables.data is {data}, but must be different names of data sets, or 'A>B' for "
            "an encoder pretrained on A and evaluated on B.",
        )
        require(
            len(set(self.streams)) == len(self.streams),
            f"config.tables.streams is {self.streams}, but must be different streams.",
        )
        try:
            re.compile(self.cells)
        except re.error as error:
            raise UserError(
                f"config.tables.cells is {self.cells!r}, which is not a regular expression: "
                f"{error}."
            ) from error


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a task, and the runs that it depends on."""

    task: Task
    config: Config
    folder: Path
    fingerprint: str
    needs: tuple[Run, ...] = ()

    def chain(self) -> Iterator[Run]:
        """All runs that it depends on, dependencies first, and then this run."""
        for need in self.needs:
            yield from need.chain()
        yield self

    @property
    def finished(self) -> bool:
        return (self.folder / RESULTS_FILE).exists()


class Plan:
    """Plans the runs of cells.

    Args:
      base: settings that all runs start from.
      folder: folder of all runs.
      tasks: tasks by name.
    """

    def __init__(self, base: Config, folder: Path, tasks: Mapping[str, Task]) -> None:
        self._base, self._folder, self._tasks = base, folder, tasks
        self._known = self._known_runs()

    def run(
        self, settings: Mapping[str, Any], encoder: Run | None = None, parts: Sequence[Run] = ()
    ) -> Run:
        """A run with these settings that uses the encoder of a run, or the results of ``parts``.

        Raises:
          UserError: the settings cannot work.
        """
        config = self._base.copy()
        config.update_from_flattened_dict(settings)
        task = self._tasks[config.task]
        self._reset_unread(config)
        task.validate(config)
        needs = (encoder,) if encoder else tuple(parts)
        fingerprint = _fingerprint(config, [need.fingerprint for need in needs])
        what = f"{config.task}-{config.method.name}" if task.pretrains else config.task
        data, stream = config.data.name.replace("/", "-"), config.views.stream
        name = f"{what}_{data}_{stream}_seed{config.seed}_{fingerprint}"
        if encoder:
            config.encoder = str(encoder.folder)
        if parts:
            config.of(Fused).runs = tuple(str(part.folder) for part in parts)
        folder = self._folder / name
        if fingerprint in self._known:
            folder, known = self._known[fingerprint]
            # An unfinished run resumes only with its own settings, which may differ from ours in
            # sections that its task does not read.
            free = free_keys(config)
            known.update_from_flattened_dict({k: v for k, v in config.flat().items() if k in free})
            config = known
        return Run(task, config, folder, fingerprint, needs)

    def measures(self, row: Row, term: Term) -> bool:
        """Whether a term can be measured for a row."""
        task = self._task(row, term)
        metric = (row.metric or term.metric).partition("@")[0]
        if not row.task and not self._tasks[term.task].takes_encoder:
            return False
        return metric in [known.key for known in task.metrics]

    def evaluation(self, row: Row, column: Column, term: Term, seed: int) -> Run:
        """The run that measures a term of a cell."""
        task = self._task(row, term).name
        stream = row.stream or self._base.views.stream
        if not row.fused:
            return self._stream(row, column, dataclasses.replace(term, task=task), seed, stream, {})
        parts = [
            self._stream(row, column, term, seed, stream, settings)
            for stream, settings in row.fused.items()
        ]
        evaluated = {"data.name": term.data.rpartition(">")[2], "seed": seed, **term.settings}
        weights = (1.0,) * len(parts)
        return self.run({"task": task, "fusion.weights": weights, **evaluated}, parts=parts)

    def _task(self, row: Row, term: Term) -> Task:
        return self._tasks[row.task or ("fusion" if row.fused else term.task)]

    def _stream(
        self,
        row: Row,
        column: Column,
        term: Term,
        seed: int,
        stream: str,
        settings: Mapping[str, Any],
    ) -> Run:
        pretrained_on, _, evaluated_on = term.data.rpartition(">")
        common = {"seed": seed, "views.stream": stream}
        encoder = None
        if row.pretraining is not None:
            data = {"data.name": pretrained_on or evaluated_on, "method.name": row.method}
            if METHODS[row.method].every_stream:
                # One run trains the encoders of all streams.
                common, settings = {"seed": seed, "views.stream": "joint"}, {}
            encoder = self.run(
                {"task": "pretrain", **data, **common, **settings}
                | {**row.pretraining, **column.pretraining}
            )
        evaluation = {"task": term.task, "data.name": evaluated_on, "seed": seed}
        return self.run({**evaluation, "views.stream": stream, **term.settings}, encoder)

    def _reset_unread(self, config: Config) -> None:
        """Resets the sections that the configuration's task does not read to their defaults."""
        task, default = self._tasks[config.task], type(config)()
        read = {*task.settings, *(method_of(config).settings if task.pretrains else ())}
        owned = {name for owner in self._tasks.values() for name in owner.settings}
        owned |= {name for method in METHODS.values() for name in method.settings}
        if not task.occludes:
            owned.add("occlusion")
        for name in owned - read:
            setattr(config, name, getattr(default, name))

    def _known_runs(self) -> dict[str, tuple[Path, Config]]:
        """{fingerprint: (folder, settings)} of existing runs, including those of older versions."""
        known: dict[str, Config] = {}
        for path in self._folder.glob(f"*/{CONFIG_FILE}"):
            try:
                config = read_config(path.parent, type(self._base))
            except UserError:
                continue  # Damaged; the run is made again elsewhere.
            if config.task in self._tasks and config.method.name in METHODS:
                known[path.parent.name] = config

        @functools.cache
        def fingerprint(name: str) -> str:
            if name not in known:
                return name
            config = known[name].copy()
            fused = config.of(Fused)
            # By the name of its folder, not the path, since the folder of all runs may have moved.
            needs = [fingerprint(Path(run).name) for run in (config.encoder, *fused.runs) if run]
            config.encoder, fused.runs = "", ()
            self._reset_unread(config)
            return _fingerprint(config, needs)

        # Finished runs last: among runs with the same settings they take precedence.
        order = sorted(known, key=lambda name: (self._folder / name / RESULTS_FILE).exists())
        return {fingerprint(name): (self._folder / name, known[name]) for name in order}


# {(row, column): for every seed, the cell's terms, each with the run that measures it}.
Cells = dict[tuple[str, str], list[list[tuple[Term, Run]]]]


class Runner:
    """Executes runs that have no results yet, and records why runs failed."""

    def __init__(self, cells: Cells) -> None:
        runs = [run for seeds in cells.values() for terms in seeds for _, run in terms]
        self._results: dict[Path, Results] = {}
        self._reasons: dict[Path, str] = {}
        for folder in {part.folder for run in runs for part in run.chain() if part.finished}:
            try:
                self._results[folder] = _read_results(folder)
            except UserError as error:
                self._reasons[folder] = str(error)
        # All processes must have read the same results before any of them starts a run.
        wait_for_all("tables")

    def finished(self, run: Run) -> bool:
        return run.folder in self._results

    def results(self, run: Run) -> Results:
        """The results of a run; executes it and its dependencies if necessary.

        Raises:
          UserError: one of them cannot run.
        """
        if not self.finished(run):
            # Check for missing data before anything long starts.
            for part in run.chain():
                if not self.finished(part):
                    recordings.find(part.config.data.name, part.config.data.dir)
            self._finish(run)
        return self._results[run.folder]

    def _finish(self, run: Run) -> None:
        if self.finished(run):
            return
        if run.folder in self._reasons:
            raise UserError(self._reasons[run.folder])
        for need in run.needs:
            self._finish(need)
        print(f"== {run.folder.name}", flush=True)
        while not self.finished(run):
            try:
                self._results[run.folder] = run_task(run.task, run.config, run.folder)
            except Busy:
                print("Another process is making this run; waiting for its results.", flush=True)
                self._wait(run)
            except UserError as error:
                self._reasons[run.folder] = str(error)
                raise

    def _wait(self, run: Run) -> None:
        """Waits a while for a run that another process is making, and reads its results, if any."""
        time.sleep(_WAITING_SECONDS)
        if agreed(run.finished):
            self._results[run.folder] = _read_results(run.folder)


def _read_results(folder: Path) -> Results:
    return read_json(folder / RESULTS_FILE, dict, "delete it to make this run again")


class TableTask(Task):
    """One table: makes all its runs, and writes their figures beside the published ones."""

    name = "table"
    settings = {"tables": Tables}
    reads_data = False
    takes_encoder = False
    # Several processes may make a table together.
    shares_workdir = True

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        """``tasks``: tasks of the table's runs, by name."""
        self._tasks = tasks

    def run(self, config: Config, workdir: Path) -> Results:
        """Writes ``results.json``, ``results.md`` and ``results.csv`` after every cell.

        Raises:
          UserError: the settings cannot work, or none of its cells can be measured.
        """
        settings = config.of(Tables)
        spec, columns, cells, chosen = self._planned(config, workdir)
        metrics = {row.name: row.metric for row in spec.rows}
        runner = Runner(cells)
        measured: dict[tuple[str, str], dict[str, Any]] = {}

        def turn(cell: tuple[str, str]) -> tuple[bool, bool]:
            # Finished cells come first, so that the files written after each cell contain them.
            # Cells that are not chosen come last, after the runs that they share with chosen cells.
            return not _finished(cells[cell], runner), cell not in chosen

        for cell in sorted(cells, key=turn):
            measured[cell] = _measure(cells[cell], metrics[cell[0]], runner, cell in chosen)
            document = documents.document(
                settings.number, settings.scale, settings.seeds, spec, columns, measured,
                runs_folder(config, workdir),
            )  # fmt: skip
            if jax.process_index() == 0:
                documents.write(document, workdir)
        if not any(measured[cell]["runs"] for cell in chosen):
            reason = next(iter(measured[min(chosen, key=list(cells).index)]["reasons"]))
            raise UserError(f"No cell of table {settings.number} can be run: {reason}")
        return document

    def printed(self, workdir: Path, results: Results) -> Results:
        # Only the path of the table, since its content would be a very long line.
        return {
            "task": self.name,
            "table": results["table"],
            "results": str(workdir / "results.md"),
        }

    def planned_runs(self, config: Config, workdir: Path) -> list[Run]:
        """Every run of the chosen cells, once, dependencies first.

        Raises:
          UserError: the settings cannot work, or choose no cell.
        """
        _, _, cells, chosen = self._planned(config, workdir)
        runs = {
            part.folder: part
            for cell, seeds in cells.items()
            if cell in chosen
            for terms in seeds
            for _, run in terms
            for part in run.chain()
        }
        return list(runs.values())

    def plan(self, config: Config, workdir: Path) -> Iterator[tuple[str, str]]:
        runs = self.planned_runs(config, workdir)
        waiting = [run for run in runs if not run.finished]
        yield "runs", f"{len(runs)}, of which {len(runs) - len(waiting)} have finished"
        missing: dict[str, str] = {}
        for number, run in enumerate(waiting, 1):
            yield f"  {number}", run.folder.name
            try:
                recordings.find(run.config.data.name, run.config.data.dir)
            except UserError as error:
                missing[run.config.data.name] = str(error)
        for reason in missing.values():
            yield "missing", reason
        possible = [
            run
            for run in waiting
            if not any(
                not part.finished and part.config.data.name in missing for part in run.chain()
            )
        ]
        if waiting and not possible:
            raise UserError(f"No run of table {config.of(Tables).number} has its data.")
        configs = [scaled_to_batch(run.config) for run in possible if run.task.pretrains]
        if configs:
            yield "time", _pretraining_time(configs, Devices(config.mapping))

    def _planned(self, config: Config, workdir: Path) -> tuple[Table, list[Column], Cells, set]:
        """The table's layout, the runs of all its cells, and the cells that are chosen."""
        settings = config.of(Tables)
        base = scaled(config) if settings.scale == "small" else config.copy()
        if settings.number:
            spec = TABLES[settings.number]
        else:
            streams = settings.streams or (config.views.stream,)
            spec = comparison(config.data.name, config.method.name, streams)
        columns = spec.columns(benchmarks(spec, settings.data, settings.scale))
        plan = Plan(base, runs_folder(config, workdir), self._tasks)
        cells = {
            (row.name, column.heading): [
                [(term, plan.evaluation(row, column, term, seed)) for term in column.terms]
                # A row without an encoder does not depend on the seed.
                for seed in ((config.seed,) if row.task else settings.seeds)
            ]
            for row, column in itertools.product(spec.rows, columns)
            if all(plan.measures(row, term) for term in column.terms)
        }
        chosen = {cell for cell in cells if re.search(settings.cells, "/".join(cell), re.I)}
        if not chosen:
            raise UserError(
                f"config.tables.cells is {settings.cells!r}, which no cell of table "
                f"{settings.number} matches; one of them is {'/'.join(next(iter(cells)))!r}."
            )
        return spec, columns, cells, chosen


def runs_folder(config: Config, workdir: Path) -> Path:
    """The folder of a table's runs."""
    return Path(config.of(Tables).runs or workdir / "runs").expanduser().absolute()


def _pretraining_time(configs: Sequence[Config], devices: Devices) -> str:
    """The time of pretraining, extrapolated from the FLOP/s of a step of the first run."""
    first, flops_of = configs[0], [method_of(config).step_flops(config) for config in configs]
    rate = flops_of[0] * first.optimizer.batch_size / step_seconds(first, devices)
    flops = sum(
        config.optimizer.epochs
        * recordings.count(config.data.name, config.data.dir, "train")
        * step_flops
        for config, step_flops in zip(configs, flops_of, strict=True)
    )
    return (
        f"{duration(flops / rate)} for pretraining ({len(configs)} of these runs): "
        f"{_arithmetic(flops)} at {rate / 1e9:.3g} GFLOP/s; evaluations not included"
    )


def _arithmetic(flops: float) -> str:
    for unit, size in (("E", 1e18), ("P", 1e15), ("T", 1e12)):
        if flops >= size:
            return f"{flops / size:.3g} {unit}FLOP"
    return f"{flops / 1e9:.3g} GFLOP"


def _fingerprint(config: Config, needs: Sequence[str]) -> str:
    """Eight hexadecimal digits that identify a run's settings and the runs that it needs.

    Settings with their default values do not count, so that a new setting changes no fingerprint.
    """
    default, free = type(config)().flat(), free_keys(config)
    changed = {
        key: value
        for key, value in sorted(config.flat().items())
        if value != default[key] and key not in free
    }
    return hashlib.sha256(json.dumps([changed, *needs]).encode()).hexdigest()[:8]


def _finished(seeds: list[list[tuple[Term, Run]]], runner: Runner) -> bool:
    return all(runner.finished(run) for terms in seeds for _, run in terms)


def _measure(
    seeds: list[list[tuple[Term, Run]]], metric: str | None, runner: Runner, may_run: bool
) -> dict[str, Any]:
    """A cell's value for every seed, their statistics, and the reasons for missing values."""
    values, folders, needs, reasons = [], [], [], []
    for terms in seeds:
        if not may_run and not _finished([terms], runner):
            reasons.append("config.tables.cells does not match it.")
            continue
        try:
            values.append(
                sum(term.weight * runner.results(run)[metric or term.metric] for term, run in terms)
            )
        except UserError as error:
            reasons.append(str(error))
            continue
        folders.append([run.folder.name for _, run in terms])
        needs.append([need.folder.name for _, run in terms for need in [*run.chain()][:-1]])
    return {
        "runs": len(values),
        "mean": statistics.mean(values) if values else None,
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "values": values,
        "folders": folders,
        "needs": needs,
        "reasons": list(dict.fromkeys(reasons)),
    }
