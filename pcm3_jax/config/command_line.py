"""The command line of every entry point that takes a configuration.

--config=FILE --workdir=DIR [--config.key=value …], and which of several processes this is.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from pcm3_jax.config import require, validate
from pcm3_jax.errors import NO_ROOM, UserError, WriteError, reason
from pcm3_jax.runtime import parallel
from pcm3_jax.train.loop import Preempted

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
    run: Callable[[ConfigDict, Path], object],
    dry_run: Callable[[ConfigDict, Path], object] | None = None,
) -> None:
    """Calls ``run``, or ``dry_run`` if asked, with the command line's configuration and workdir.

    Leaves with 1 and one sentence after a mistake that a user can put right, or when another
    process of the run is gone; with 143, as a process that SIGTERM ended, after a stop in good
    order; and with 130 after Ctrl-C.
    """
    if "--help" in sys.argv:
        print(sys.modules["__main__"].__doc__)
        print(flags.FLAGS.module_help(__name__))
        return
    try:
        config, workdir = parse(sys.argv)
        validate(config)
        # float32 means float32, on devices that would take shortcuts too, unless it is set not to.
        jax.config.update("jax_default_matmul_precision", config.model.precision)
        # Through these Orbax logs, with tracebacks, what it also raises.
        for name in ("absl", "asyncio", "concurrent.futures"):
            logging.getLogger(name).addFilter(lambda record: not record.exc_info)
        _join_processes()
        _require_devices()
        if _DRY_RUN.value:
            if dry_run is None:
                raise UserError("--dry_run is for pcm3_jax.main only.")
            run = dry_run
        run(config, workdir)
        parallel.wait_for_all("finished")
    except (Exception, KeyboardInterrupt) as error:
        message, code = _farewell(error)
        if message is None:
            _on_abort("error: see the traceback above.", code)
            raise
        _leave(error, message, code)


_LOST = (
    "Another process of this run has ended or cannot be reached ({}); the same command in every "
    "process continues from the last checkpoint."
)

_NO_MEMORY = (
    "The device's memory is too small ({}); a smaller batch_size takes less, as do, when "
    "pretraining, --config.model.remat=True, --config.model.dtype=bfloat16 and "
    "--config.data.feed=stream."
)


def _farewell(error: BaseException) -> tuple[str | None, int]:
    """What to say of an error, None where its traceback tells more, and the exit code."""
    if isinstance(error, Preempted):
        return str(error), 128 + signal.SIGTERM
    if isinstance(error, KeyboardInterrupt):
        message = "Interrupted; the same command goes on, from the last checkpoint if any."
        return message, 128 + signal.SIGINT
    if isinstance(error, (UserError, WriteError)):
        return f"error: {error}", 1
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return (
            f"error: {error.filename or _WORKDIR.value} cannot be written ({reason(error)}); the "
            "same command continues from the last checkpoint once that is put right."
        ), 1
    if parallel.lost_process(error):
        return f"error: {_LOST.format(reason(error))}", 1
    if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
        return f"error: {_NO_MEMORY.format(reason(error))}", 1
    return None, 1


def _leave(error: BaseException, message: str, code: int) -> None:
    """Leaves with a message and an exit code, with the other processes if they leave as well."""
    several = jax.distributed.is_initialized()
    if several or isinstance(error, WriteError):
        print(message, file=sys.stderr)
        if several and not parallel.lost_process(error):
            # Told once more, should the others not come.
            _on_abort(message, code)
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                jax.distributed.shutdown()
        # Past threads and handlers that would wait for the others, and Orbax's, which would tell
        # of a failed save once more.
        _exit(code)
    if code == 1:
        sys.exit(message)
    print(message, file=sys.stderr)
    sys.exit(code)


def _on_abort(message: str, code: int) -> None:
    """Has the runtime's aborts, which only end one of several processes, end in a message too."""
    if not _COORDINATOR.value:
        return

    def leave() -> None:
        print(message, file=sys.stderr)
        _exit(code)

    parallel.on_abort(leave)


def _exit(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _join_processes() -> None:
    if not _COORDINATOR.value:
        return
    given = (_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    message = (
        "The processes of this run have not found each other ({}); start each within five minutes "
        "and with the same --coordinator and --processes."
    )
    _on_abort(f"error: {message.format('see above')}", 1)
    try:
        parallel.join_processes(*(() if _COORDINATOR.value == "auto" else given))
    except jax.errors.JaxRuntimeError as error:
        raise UserError(message.format(reason(error))) from error
    _on_abort(f"error: {_LOST.format('see above')}", 1)


def _require_devices() -> None:
    """Raises UserError where a device that JAX_PLATFORMS asks for cannot be used."""
    wanted = jax.config.values["jax_platforms"] or ""
    hint = "check the device's driver, or set JAX_PLATFORMS=cpu to do without"
    missing = f"JAX_PLATFORMS={wanted} asks for a device that JAX does not find; {hint}."
    try:
        found = jax.default_backend()
    except AssertionError:
        # JAX's own, where there is nothing of what JAX_PLATFORMS names.
        raise UserError(missing) from None
    except RuntimeError as error:
        raise UserError(f"JAX's device cannot be used ({reason(error)}); {hint}.") from error
    # Without a GPU's device file JAX passes over "cuda" without a word.
    require(found != "cpu" or not wanted.startswith(("cuda", "gpu")), missing)


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
    places = {"workdir": flags.FLAGS.workdir, "config.data.dir": _CONFIG.value.data.dir}
    for flag, place in places.items():
        require("://" not in place, f"--{flag}={place} is no folder: mount it, and name that.")
    processes, process = _PROCESSES.value, _PROCESS.value
    require(
        (processes, process) == (1, 0) or _COORDINATOR.value not in (None, "", "auto"),
        f"--processes={processes} --process={process} need --coordinator=HOST:PORT.",
    )
    require(
        0 <= process < processes,
        f"--process is {process}, but must count from 0 and stay below --processes={processes}.",
    )
    return _CONFIG.value, Path(flags.FLAGS.workdir)


def _mistake(error: Exception, argv: list[str]) -> str:
    """One sentence for what parsing the command line and the configuration file raised."""
    files = {Path(frame.filename).name for frame in traceback.extract_tb(error.__traceback__)}
    message = str(error).strip()
    # ml_collections follows the keys of overrides there.
    of_key = isinstance(error, (AttributeError, KeyError)) and "config_path.py" in files
    if of_key and (word := re.search(r"\w+", message)):
        key = word[0]
        flag = next((arg for arg in argv if key in re.split("[.=]", arg)), key)
        meant = re.search(r'Did you mean "(\w+)"', message)
        hint = f"; did you mean {meant[1]!r}?" if meant else "."
        return f"{flag} sets a key that the configuration does not have{hint}"
    if isinstance(error, flags.Error) and "Traceback" not in message:
        return f"The command line is wrong: {' '.join(message.split()).rstrip('.')}."
    # ml_collections puts whole tracebacks into some messages; their last line tells.
    reason = message.splitlines()[-1].strip() if message else "no reason given"
    if not isinstance(error, (flags.Error, UserError)):
        reason = f"{type(error).__name__}: {reason}"
    return f"The configuration file cannot be used: {reason.rstrip('.')}."
