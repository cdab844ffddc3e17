"""The command line of every entry point that takes a configuration.

--config=FILE --workdir=DIR [--config.key=value …], and which of several processes this is.
"""

from __future__ import annotations

import re
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from pcm3_jax.config import validate
from pcm3_jax.errors import UserError
from pcm3_jax.loop import Preempted

_CONFIG = config_flags.DEFINE_config_file("config", None, "What to run, e.g. configs/demo.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where to write everything.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of the first of several processes; auto on a Cloud TPU."
)
_PROCESSES = flags.DEFINE_integer("processes", 1, "How many processes take part.")
_PROCESS = flags.DEFINE_integer("process", 0, "Which of them this one is, from 0.")
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Check everything, say what the run would take, and end."
)


def main(
    run: Callable[[ConfigDict, Path], object], dry_run: Callable[[ConfigDict, Path], object]
) -> None:
    """Calls ``run``, or ``dry_run`` if asked, with the command line's configuration and workdir.

    Leaves with 1 and one sentence after a mistake that a user can put right; with 143, as a
    process that SIGTERM ended, after a stop in good order; and with 130 after Ctrl-C.
    """
    if "--help" in sys.argv:
        print(sys.modules["__main__"].__doc__)
        print(flags.FLAGS.module_help(__name__))
        return
    try:
        config, workdir = parse(sys.argv)
        validate(config)
        # float32 is to mean float32 on devices that would take shortcuts; bfloat16 is a setting.
        jax.config.update("jax_default_matmul_precision", "highest")
        _join_processes()
        (dry_run if _DRY_RUN.value else run)(config, workdir)
    except UserError as error:
        sys.exit(f"error: {error}")
    except Preempted as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + signal.SIGTERM)
    except KeyboardInterrupt:
        print("Interrupted; the same command continues from the last checkpoint.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def _join_processes() -> None:
    if _COORDINATOR.value == "auto":
        try:
            jax.distributed.initialize()
        except ValueError as error:
            raise UserError("--coordinator=auto finds no Cloud TPU; use host:port.") from error
    elif _COORDINATOR.value:
        jax.distributed.initialize(
            _COORDINATOR.value,
            _PROCESSES.value,
            _PROCESS.value,
            # Else JAX would take one GPU a process wherever it notices Slurm or MPI.
            cluster_detection_method="deactivate",
        )


def parse(argv: list[str]) -> tuple[ConfigDict, Path]:
    """The configuration and the workdir of a command line.

    Raises:
      UserError: a flag or configuration key is wrong or missing.
    """
    try:
        rest = flags.FLAGS(argv)
        loaded = isinstance(_CONFIG.value, ConfigDict)
    # A configuration file is a program, which can raise anything.
    except Exception as error:
        raise UserError(_mistake(error, argv)) from error
    if len(rest) > 1:
        raise UserError(f"The command line has {rest[1]!r}, which belongs to no flag.")
    for flag, name in ((_CONFIG, "config"), (_WORKDIR, "workdir")):
        if not flag.value:
            raise UserError(f"The command line lacks --{name}: {flags.FLAGS[name].help}")
    if not loaded:
        file = config_flags.get_config_filename(flags.FLAGS["config"])
        raise UserError(f"The configuration file {file!r} is missing, or returns no ConfigDict.")
    return _CONFIG.value, Path(_WORKDIR.value)


def _mistake(error: Exception, argv: list[str]) -> str:
    """One sentence for what parsing the command line and the configuration file raised."""
    files = {Path(frame.filename).name for frame in traceback.extract_tb(error.__traceback__)}
    message = str(error).strip()
    # ml_collections follows the keys of overrides there.
    if isinstance(error, (AttributeError, KeyError)) and "config_path.py" in files:
        key = re.search(r"\w+", message)[0]
        flag = next((arg for arg in argv if key in re.split("[.=]", arg)), key)
        meant = re.search(r'Did you mean "(\w+)"', message)
        hint = f"; did you mean {meant[1]!r}?" if meant else "."
        return f"{flag} sets a key that the configuration does not have{hint}"
    if isinstance(error, flags.Error) and "Traceback" not in message:
        return f"The command line is wrong: {' '.join(message.split()).rstrip('.')}."
    # ml_collections puts whole tracebacks into some messages; their last line tells.
    reason = message.splitlines()[-1].strip() if message else "no reason given"
    if not isinstance(error, flags.Error):
        reason = f"{type(error).__name__}: {reason}"
    return f"The configuration file cannot be used: {reason.rstrip('.')}."
