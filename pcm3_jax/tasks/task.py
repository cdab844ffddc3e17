"""What a task is: the object that `pcm3_jax.registry.TASKS` holds of each."""

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
from pcm3_jax.train.workdir import RESULTS_FILE, check_workdir, claim_workdir, locked

Results = dict[str, Any]


class Metric(NamedTuple):
    """One figure of a task's results.

    Attributes:
      key: its name in results.json; "KEY@…" are the same at several thresholds or frames.
      name: what tables call it.
      unit: "%" of a share in [0, 1], "mm", or "".
      better: which values are.
      compared: whether the table that compares encoders has a column of it.
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
    """What an evaluation takes, for --dry_run.

    Attributes:
      encoded: passes of the encoder over ``config.views.frames`` frames.  A sequence that is
        trained on counts three times, for the backward pass; what follows the encoder is left out.
      training: its epochs and batch; None where nothing is trained.
    """

    encoded: float
    training: Training | None = None


class Task:
    """Something that ``config.task`` can name.

    Attributes:
      name: what it says.
      settings: sections that the task adds to the configuration, by name.
      metrics: what its results hold.
      reads_data: whether it reads a data set, and not only the results of other runs.
      pretrains: whether it trains an encoder from random weights.
      takes_encoder: whether it evaluates the encoder that ``config.encoder`` names.
      occludes: whether it applies ``config.occlusion``.
      shares_workdir: whether several processes may work in its workdir at once.
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
        """Raises a `UserError` for settings with which this task in particular cannot work."""

    def validate(self, config: Config) -> None:
        """Raises a `UserError` for the first setting that cannot work, naming its key."""
        config.check()
        require(
            not config.encoder or self.takes_encoder,
            f"config.encoder is {config.encoder!r}, but task {self.name!r} takes no encoder.",
        )
        require(
            config.occlusion.kind == "none" or self.occludes,
            f"config.occlusion.kind is {config.occlusion.kind!r}, but task {self.name!r} occludes "
            "nothing.",
        )
        if self.pretrains:
            method_of(config).check(config)
        self.check(config)

    def run(self, config: Config, workdir: Path) -> Results:
        """Does it; what it returns becomes results.json."""
        raise NotImplementedError

    def plan(self, config: Config, workdir: Path) -> Iterator[tuple[str, str]]:
        """What --dry_run prints: headings and texts, as soon as they are known.

        Raises:
          UserError: the run would end with it.
        """
        raise NotImplementedError

    def compared(self, config: Config) -> tuple[str, str] | None:
        """What was measured, as (encoder, stream), where tables compare encoders by this task."""
        return None

    def shown_encoder(self, config: Config, workdir: Path) -> str | None:
        """The encoder that a report of this run looks into, as ``config.encoder`` names it.

        None of a task that has none to look into.
        """
        return None

    def printed(self, workdir: Path, results: Results) -> Results:
        """What the end of a run prints of its results."""
        return results

    def metric(self, key: str) -> Metric:
        """The metric of a key of results.json."""
        for metric in self.metrics:
            if key == metric.key:
                return metric
            if key.startswith(f"{metric.key}@"):
                return metric._replace(key=key, name=f"{metric.name}{key[len(metric.key) :]}")
        return Metric(key, key)


def run_task(task: Task, config: Config, workdir: Path) -> Results:
    """Runs a task in its workdir and writes ``results.json``.

    Raises:
      UserError: the workdir is another run's, or the task cannot be done.
    """
    check_workdir(workdir, config)
    with contextlib.nullcontext() if task.shares_workdir else locked(workdir):
        claim_workdir(workdir, config)
        provenance.record(workdir, config, reads_data=task.reads_data)
        if jax.default_backend() == "gpu" and not jax.config.values["jax_compilation_cache_dir"]:
            # Keeps autotuning choices, so that resumed runs are bit-identical.  A table's runs
            # share its folder: JAX opens no second one in a process.
            jax.config.update("jax_compilation_cache_dir", str(workdir / "compiled"))
        results = {"task": config.task, **task.run(config, workdir)}
        if jax.process_index() == 0:
            write_json(workdir / RESULTS_FILE, results)
            print(json.dumps(task.printed(workdir, results)))
    return results
