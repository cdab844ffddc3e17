"""The tasks that a configuration can name, and running one."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from pcm3_jax.runtime.files import write_json
from pcm3_jax.tables import runner
from pcm3_jax.tasks import frozen, pretrain, trained
from pcm3_jax.train import provenance
from pcm3_jax.train.checkpoint import check_workdir, claim_workdir, locked


def run(config: ConfigDict, workdir: Path) -> dict:
    """Runs the task and writes ``results.json``."""
    check_workdir(workdir, config)
    # Several processes may make a table together.
    with contextlib.nullcontext() if config.task == "table" else locked(workdir):
        claim_workdir(workdir, config)
        provenance.record(workdir, config)
        cache = jax.config.values["jax_compilation_cache_dir"]
        if jax.default_backend() == "gpu" and cache is None:
            # GPU programs are tuned anew, and may round otherwise, whenever they are compiled.  A
            # table's runs share its folder: JAX opens no second one in a process.
            jax.config.update("jax_compilation_cache_dir", str(workdir / "compiled"))
        results = {"task": config.task, **TASKS[config.task](config, workdir)}
        if jax.process_index() == 0:
            write_json(workdir / "results.json", results)
            # A whole table would be one very long line.
            table = {"task": "table", "table": config.table, "results": str(workdir / "results.md")}
            print(json.dumps(table if config.task == "table" else results))
    return results


TASKS: dict[str, Callable[[ConfigDict, Path], dict[str, Any]]] = {
    "pretrain": pretrain.pretrain,
    "cmd": pretrain.pretrain,
    "retrieval": frozen.retrieval,
    "linear_eval": frozen.linear_eval,
    "fusion": frozen.fusion,
    "finetune": trained.finetune,
    "detection": trained.detection,
    "motion_prediction": trained.motion_prediction,
    "baseline": frozen.baseline,
    "table": functools.partial(runner.table, run=run),
}
