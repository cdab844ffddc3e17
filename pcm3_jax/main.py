"""Runs the task of a configuration.

python -m pcm3_jax.main --config=configs/NAME.py --workdir=DIR [--config.key=value …] [--dry_run]
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
from ml_collections import ConfigDict

from pcm3_jax import command_line, dry_run, provenance, tasks
from pcm3_jax.checkpoint import claim_workdir, locked
from pcm3_jax.files import write_json


def run(config: ConfigDict, workdir: Path) -> dict:
    """Runs the task and writes ``results.json``."""
    claim_workdir(workdir, config)
    with locked(workdir):
        provenance.record(workdir, config)
        cache = jax.config.values["jax_compilation_cache_dir"]
        if jax.default_backend() == "gpu" and cache is None:
            # GPU programs are tuned anew, and may round otherwise, whenever they are compiled.  A
            # table's runs share its folder: JAX opens no second one in a process.
            jax.config.update("jax_compilation_cache_dir", str(workdir / "compiled"))
        results = {"task": config.task, **tasks.TASKS[config.task](config, workdir)}
        if jax.process_index() == 0:
            write_json(workdir / "results.json", results)
            # A whole table would be one very long line.
            table = {"task": "table", "table": config.table, "results": str(workdir / "results.md")}
            print(json.dumps(table if config.task == "table" else results))
    return results


if __name__ == "__main__":
    command_line.main(run, dry_run.describe)
