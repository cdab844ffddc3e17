"""Runs the task of a configuration.

pcm3 train --config=configs/NAME.py --workdir=DIR [--config.key=value …] [--dry_run]
"""

from __future__ import annotations

from pathlib import Path

import jax

from pcm3_jax.config import Config, command_line, task_of
from pcm3_jax.runtime.parallel import Devices
from pcm3_jax.tasks.task import Results, run_task
from pcm3_jax.train.workdir import check_workdir


def run(config: Config, workdir: Path) -> Results:
    """Runs the task and writes ``results.json``."""
    return run_task(task_of(config), config, workdir)


def dry_run(config: Config, workdir: Path) -> dict[str, str]:
    """Checks everything that a run needs and prints its estimated cost; writes nothing.

    Returns:
      The printed text of each heading.

    Raises:
      UserError: the run would fail with the same error.
    """
    check_workdir(workdir, config)
    devices = f"{Devices(config.mapping).count} × {jax.devices()[0].device_kind}"
    lines = {"task": config.task, "devices": devices}
    for heading, text in lines.items():
        print(f"{heading:12}{text}", flush=True)
    for heading, text in task_of(config).plan(config, workdir):
        print(f"{heading:12}{text}", flush=True)
        lines[heading] = text
    return lines


if __name__ == "__main__":
    command_line.main(run, dry_run)
