"""Runs what a table of the paper needs; `paper` says what that is.

The runs lie in one folder that all tables can share, each under a name that ends in a hash of
its settings: what two cells or two tables have in common is run once, and what has finished is
not run again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from pcm3_jax.config import PRETRAINING, default_config, leaf, validate
from pcm3_jax.data import recordings
from pcm3_jax.errors import Busy, UserError
from pcm3_jax.runtime.parallel import agreed, wait_for_all
from pcm3_jax.tables import document as documents
from pcm3_jax.tables.paper import STREAM_SETTINGS, TABLES, Column, Row, Table, Term, benchmarks
from pcm3_jax.tables.scale import scaled
from pcm3_jax.train.checkpoint import FREE_KEYS

# Between two looks at what another process is running.
_WAITING_SECONDS = 30
RunTask = Callable[[ConfigDict, Path], dict[str, Any]]

# Settings of the table itself: its runs have the defaults of these, the scale once applied.
_OWN_KEYS = ("scale", "table", "table_cells", "table_data", "table_runs", "table_seeds")
# What pretraining does not read: other values of these must not make it another run.
_EVALUATION_SECTIONS = (
    "linear", "finetune", "occlusion", "fusion", "detection", "motion_prediction", "baseline",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a task, and the runs that it needs to have finished."""

    config: ConfigDict
    folder: Path
    needs: tuple[Run, ...] = ()

    def chain(self) -> Iterator[Run]:
        """What it needs, directly or not, then itself."""
        for need in self.needs:
            yield from need.chain()
        yield self


@dataclasses.dataclass(frozen=True)
class Plan:
    """Makes the runs of cells.

    Attributes:
      base: the settings that all runs start from.
      folder: of all runs.
    """

    base: ConfigDict
    folder: Path

    def run(self, settings: dict[str, Any], encoder: Run | None = None, parts=()) -> Run:
        """A run with these settings, on the encoder of a run or on several finished ones.

        Raises:
          UserError: the settings cannot work.
        """
        config = self.base.copy_and_resolve_references()
        config.update_from_flattened_dict(settings)
        if config.task in PRETRAINING:
            default = default_config()
            other = ("cmd",) if config.task == "pretrain" else ()
            config.update({section: default[section] for section in _EVALUATION_SECTIONS + other})
        needs = (encoder,) if encoder else tuple(parts)
        validate(config)
        name = "_".join(
            (config.task, config.data.name.replace("/", "-"), config.views.stream,
             f"seed{config.seed}", _fingerprint(config, needs))
        )  # fmt: skip
        config.encoder = str(encoder.folder) if encoder else ""
        config.fusion.runs = tuple(str(part.folder) for part in parts)
        return Run(config, self.folder / name, needs)

    def evaluation(self, row: Row, column: Column, term: Term, seed: int) -> Run:
        """The run that measures a term of a cell."""
        if not row.fused:
            return self._stream(row, column, term, seed, self.base.views.stream, {})
        parts = [
            self._stream(row, column, term, seed, stream, settings)
            for stream, settings in STREAM_SETTINGS.items()
        ]
        evaluated = {"data.name": term.data.rpartition(">")[2], "seed": seed, **term.settings}
        return self.run({"task": "fusion", **evaluated}, parts=parts)

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
            data = {"data.name": pretrained_on or evaluated_on}
            if row.task == "cmd":
                # One run trains the encoders of all streams.
                common, settings = {"seed": seed, "views.stream": "joint"}, {}
            encoder = self.run(
                {"task": row.task, **data, **common, **settings}
                | {**row.pretraining, **column.pretraining}
            )
        evaluation = {"task": term.task, "data.name": evaluated_on, "seed": seed}
        return self.run({**evaluation, "views.stream": stream, **term.settings}, encoder)


# What measures each cell (row, column): for every seed, the run of every term.
Cells = dict[tuple[str, str], list[list[tuple[Term, Run]]]]


class Runner:
    """Runs what has no results yet, and remembers what could not be run and why."""

    def __init__(self, folder: Path, run: RunTask) -> None:
        self._run = run
        self._results = {
            path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/results.json")
        }
        self._reasons: dict[str, str] = {}
        # From here on, processes must not disagree on what has finished.
        wait_for_all("tables")

    def finished(self, run: Run) -> bool:
        return run.folder.name in self._results

    def results(self, run: Run) -> dict[str, Any]:
        """The results of a run, after it and what it needs have run.

        Raises:
          UserError: one of them cannot run.
        """
        if not self.finished(run):
            # Before anything long: are the data there?
            for part in run.chain():
                if not self.finished(part):
                    recordings.find(part.config.data.name, part.config.data.dir)
            self._finish(run)
        return self._results[run.folder.name]

    def _finish(self, run: Run) -> None:
        name = run.folder.name
        if self.finished(run):
            return
        if name in self._reasons:
            raise UserError(self._reasons[name])
        for need in run.needs:
            self._finish(need)
        print(f"== {name}", flush=True)
        while not self.finished(run):
            try:
                self._results[name] = self._run(run.config, run.folder)
            except Busy:
                print("Another process is at it; waiting for its results.", flush=True)
                self._wait(run)
            except UserError as error:
                self._reasons[name] = str(error)
                raise

    def _wait(self, run: Run) -> None:
        """Waits a while for the results of a run that another process is at, and reads them."""
        time.sleep(_WAITING_SECONDS)
        path = run.folder / "results.json"
        if agreed(path.exists()):
            self._results[run.folder.name] = json.loads(path.read_text())


def table(config: ConfigDict, workdir: Path, run: RunTask) -> dict[str, Any]:
    """One table of the paper; writes ``results.md`` and ``results.csv`` after every cell.

    Args:
      config, workdir: the table's.
      run: runs the task of another configuration in another workdir.

    Raises:
      UserError: not one of its cells can be run.
    """
    spec, columns, cells, chosen = _planned(config, workdir)
    metrics = {row.name: row.metric for row in spec.rows}
    runner = Runner(runs_folder(config, workdir), run)
    measured: dict[tuple[str, str], dict[str, Any]] = {}

    def turn(cell: tuple[str, str]) -> tuple[bool, bool]:
        # First what has finished already, so that the files never show less than before; last
        # what may not run, but may by then have finished with the others.
        return not _finished(cells[cell], runner), cell not in chosen

    for cell in sorted(cells, key=turn):
        measured[cell] = _measure(cells[cell], metrics[cell[0]], runner, cell in chosen)
        document = documents.document(config, spec, columns, measured)
        if jax.process_index() == 0:
            documents.write(document, workdir)
    if not any(measured[cell]["runs"] for cell in chosen):
        reason = next(iter(measured[min(chosen, key=list(cells).index)]["reasons"]))
        raise UserError(f"No cell of table {config.table} can be run: {reason}")
    return document


def planned_runs(config: ConfigDict, workdir: Path) -> list[Run]:
    """Every run that a table's chosen cells need, once, in an order in which they can run.

    Raises:
      UserError: the settings cannot work, or choose no cell.
    """
    _, _, cells, chosen = _planned(config, workdir)
    runs = {
        part.folder: part
        for cell, seeds in cells.items()
        if cell in chosen
        for terms in seeds
        for _, run in terms
        for part in run.chain()
    }
    return list(runs.values())


def runs_folder(config: ConfigDict, workdir: Path) -> Path:
    """Where the runs of a table are."""
    return Path(config.table_runs or workdir / "runs").expanduser().absolute()


def _planned(config: ConfigDict, workdir: Path) -> tuple[Table, list[Column], Cells, set]:
    """A table's layout, the runs of all its cells, and the cells that are to run."""
    base = scaled(config)
    base.update({key: default_config()[key] for key in _OWN_KEYS})
    spec = TABLES[config.table]
    columns = spec.columns(benchmarks(spec, config.table_data, config.scale))
    plan = Plan(base, runs_folder(config, workdir))
    cells = {
        (row.name, column.heading): [
            [(term, plan.evaluation(row, column, term, seed)) for term in column.terms]
            for seed in config.table_seeds
        ]
        for row, column in itertools.product(spec.rows, columns)
    }
    chosen = {cell for cell in cells if re.search(config.table_cells, "/".join(cell), re.I)}
    if not chosen:
        raise UserError(
            f"config.table_cells is {config.table_cells!r}, which no cell of table {config.table} "
            f"matches; one of them is {'/'.join(next(iter(cells)))!r}."
        )
    return spec, columns, cells, chosen


def _fingerprint(config: ConfigDict, needs: Sequence[Run]) -> str:
    """Eight hexadecimal digits that differ between runs with other settings."""
    config = config.copy_and_resolve_references()
    default = default_config()
    config.update_from_flattened_dict({key: leaf(default, key) for key in FREE_KEYS})
    text = config.to_json(sort_keys=True) + " ".join(need.folder.name for need in needs)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _finished(seeds: list[list[tuple[Term, Run]]], runner: Runner) -> bool:
    return all(runner.finished(run) for terms in seeds for _, run in terms)


def _measure(
    seeds: list[list[tuple[Term, Run]]], metric: str | None, runner: Runner, may_run: bool
) -> dict[str, Any]:
    """A cell's value of every seed, their statistics, and why there are not more of them."""
    values, reasons = [], []
    for terms in seeds:
        if not may_run and not _finished([terms], runner):
            reasons.append("config.table_cells does not name it.")
            continue
        try:
            values.append(
                sum(term.weight * runner.results(run)[metric or term.metric] for term, run in terms)
            )
        except UserError as error:
            reasons.append(str(error))
    return {
        "runs": len(values),
        "mean": statistics.mean(values) if values else None,
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "values": values,
        "folders": [[run.folder.name for _, run in terms] for terms in seeds],
        "reasons": list(dict.fromkeys(reasons)),
    }
