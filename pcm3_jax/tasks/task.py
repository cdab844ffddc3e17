"""Base class of the tasks registered in `pcm3_jax.registry.TASKS`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import jax

from pcm3_jax.methods import method_of
from pcm3_jax.runtime.files import write_json
from pcm3_jax.settings import Config, Section, Training, require
from pcm3_jax.train import provenance
from pcm3_jax.train.workdir import (
    RESULTS_FILE,
    absolute_encoder,
    check_workdir,
    claim_workdir,
    has_begun,
    locked,
)

Results = dict[str, Any]


class Metric(NamedTuple):
    """One metric in a task's results.

    Attributes:
      key: its name in results.json; "KEY@…" is the same metric at a threshold or frame.
      name: its name in tables.
      unit: "%" (results hold a share in [0, 1]), "mm" or "".
      better: whether higher or lower values are better.
      compared: whether it is a column of the table that compares encoders.
    """

    key: str
    name: str
    unit: Literal["%", "mm", ""] = ""
    better: Literal["higher", "lower", ""] = "higher"
    compared: bool = False

    @property
    def heading(self) -> str:
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def number(self, value: float) -> float:
        """The value in the metric's unit."""
        return 100 * value if self.unit == "%" else value

    def text(self, value: Any) -> str:
        """The value as tables show it."""
        if not isinstance(value, (int, float)):
            return "–" if value is None else str(value)
        if self.unit:
            return f"{self.number(value):.1f}"
        return f"{value:.4g}" if isinstance(value, float) else str(value)


class Cost(NamedTuple):
    """Estimated cost of an evaluation, for --dry_run.

    Attributes:
      encoded: encoder passes over ``config.views.frames`` frames.  A training pass counts as
        three, because of the backward pass; layers after the encoder are ignored.
      training: settings with the epochs and batch size; None if nothing is trained.
    """

    encoded: float
    training: Training | None = None


class Task:
    """Base class of tasks; ``config.task`` names the one to run.

    Attributes:
      name: value of ``config.task`` that selects it.
      settings: sections that the task adds to the configuration, by name.
      metrics: the metrics in its results.
      reads_data: whether it reads a data set, rather than only results of other runs.
      pretrains: whether it trains an encoder without labels.
      takes_encoder: whether it evaluates or starts from the encoder that ``config.encoder`` names.
      occludes: whether it applies ``config.occlusion``.
      shares_workdir: whether independent processes may use its workdir at the same time.
    """

    name: ClassVar[str]
    settings: ClassVar[Mapping[str, type[Section]]] = {}
    metrics: ClassVar[tuple[Metric, ...]] = ()
    reads_data: ClassVar[bool] = True
    pretrains: ClassVar[bool] = False
    takes_encoder: ClassVar[bool] = True
    occludes: ClassVar[bool] = False
    shares_workdir: ClassVar[bool] = False

    def check(self, config: Config) -> None:
        """Raises a `UserError` for settings that this task does not support."""

    def validate(self, config: Config) -> None:
        """Raises a `UserError` for the first setting that cannot work, naming its key."""
        config.check()
        require(
            not config.encoder or self.takes_encoder,
            f"config.encoder is {config.encoder!r}, but task {self.name!r} does not use an "
            "encoder.",
        )
        require(
            config.occlusion.kind == "none" or self.occludes,
            f"config.occlusion.kind is {config.occlusion.kind!r}, but task {self.name!r} "
            "does not support occlusion.",
        )
        if self.pretrains:
            method_of(config).check(config)
        self.check(config)

    def run(self, config: Config, workdir: Path) -> Results:
        """Runs the task and returns the content of results.json."""
        raise NotImplementedError

    def plan(self, config: Config, workdir: Path) -> Iterator[tuple[str, str]]:
        """Yields (heading, text) pairs for --dry_run, each as soon as it is known.

        Raises:
          UserError: the run would fail with the same error.
        """
        raise NotImplementedError

    def compared(self, config: Config) -> tuple[str, str] | None:
        """(encoder, stream) of this run in the table that compares encoders; None if not in it."""
        return None

    def shown_encoder(self, config: Config, workdir: Path) -> str | None:
        """The encoder that a report of this run shows, as a value for ``config.encoder``.

        None if the task has no encoder to show.
        """
        return None

    def printed(self, workdir: Path, results: Results) -> Results:
        """The part of the results that is printed at the end of a run."""
        return results

    def metric(self, key: str) -> Metric:
        """The metric of a key in results.json."""
        for metric in self.metrics:
            if key == metric.key:
                return metric
            if key.startswith(f"{metric.key}@"):
                return metric._replace(key=key, name=f"{metric.name}{key[len(metric.key) :]}")
        return Metric(key, key)


def run_task(task: Task, config: Config, workdir: Path) -> Results:
    """Runs a task in its workdir and writes ``results.json``.

    Raises:
      UserError: the workdir belongs to another run, or the task fails because of bad input.
    """
    check_workdir(workdir, config)
    with contextlib.nullcontext() if task.shares_workdir else locked(workdir):
        config = config.copy()
        config.encoder = absolute_encoder(config.encoder)
        resumed = has_begun(workdir)
        claim_workdir(workdir, config)
        provenance.record(workdir, config, reads_data=task.reads_data, resumed=resumed)
        config.encoder = provenance.pinned_encoder(workdir, config)
        if jax.default_backend() == "gpu" and not jax.config.values["jax_compilation_cache_dir"]:
            # Keeps autotuning choices, so that resumed runs are bit-identical.  JAX opens only
            # one cache folder per process, so the runs of a table use the folder of the table.
            jax.config.update("jax_compilation_cache_dir", str(workdir / "compiled"))
        results = {"task": config.task, **task.run(config, workdir)}
        if jax.process_index() == 0:
            write_json(workdir / RESULTS_FILE, results)
            printed = task.printed(workdir, results)
            if evaluated := task.compared(config):
                # Without config.encoder a random one, which may have been forgotten.
                printed = {"task": config.task, "encoder": evaluated[0]} | printed
            print(json.dumps(printed))
    return results
