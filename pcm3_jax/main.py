"""Runs the task of a configuration.

python -m pcm3_jax.main --config=configs/NAME.py --workdir=DIR [--config.key=value …]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from pcm3_jax import tasks
from pcm3_jax.checkpoint import claim_workdir, write_json
from pcm3_jax.config import validate
from pcm3_jax.errors import UserError
from pcm3_jax.loop import Preempted

_CONFIG = config_flags.DEFINE_config_file("config", None, "What to run, e.g. configs/demo.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where to write everything.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of the first of several processes."
)
_PROCESSES = flags.DEFINE_integer("processes", 1, "How many processes take part.")
_PROCESS = flags.DEFINE_integer("process", 0, "Which of them this one is, from 0.")


def main() -> None:
    """Runs a task; leaves with 1 after a mistake that a user can put right."""
    try:
        run(parse_flags(sys.argv))
    except UserError as error:
        sys.exit(f"error: {error}")
    except Preempted as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + 15)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line into the flags.

    Raises:
      UserError: a flag or configuration key is wrong.
    """
    try:
        rest = flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        message = " ".join(str(error).split())
        raise UserError(f"The command line is wrong: {message}") from error
    if len(rest) > 1:
        raise UserError(f"The command line has {rest[1]!r}, which belongs to no flag.")
    return rest


def run(_: list[str]) -> dict:
    """Runs the task of the parsed flags and writes ``results.json``."""
    for flag, name in ((_CONFIG, "config"), (_WORKDIR, "workdir")):
        if flag.value is None:
            raise UserError(f"The command line lacks --{name}: {flags.FLAGS[name].help}")
    config, workdir = _CONFIG.value, Path(_WORKDIR.value)
    validate(config)
    if _COORDINATOR.value:
        jax.distributed.initialize(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    claim_workdir(workdir, config)
    results = {"task": config.task, **tasks.TASKS[config.task](config, workdir)}
    if jax.process_index() == 0:
        write_json(workdir / "results.json", results)
        print(json.dumps(results))
    return results


if __name__ == "__main__":
    main()
