"""The command line of entry points that take a configuration, and how they exit.

--config=FILE --workdir=DIR [--config.key=value …], and which of several processes this is.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from pcm3_jax.config import Config, config_class, validate
from pcm3_jax.errors import NO_ROOM, UserError, WriteError, reason
from pcm3_jax.runtime import parallel
from pcm3_jax.settings import Section, renamed, require
from pcm3_jax.train.loop import Preempted

_CONFIG = config_flags.DEFINE_config_file("config", None, "What to run, e.g. configs/demo.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where to write everything.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of the first of several processes; auto on a Cloud TPU."
)
_PROCESSES = flags.DEFINE_integer("processes", 1, "How many processes take part.")
_PROCESS = flags.DEFINE_integer("process", 0, "Which of them this one is, from 0.")
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Check everything, print what the run would take, and exit."
)


def main(
    run: Callable[[Config, Path], object],
    dry_run: Callable[[Config, Path], object] | None = None,
) -> None:
    """Calls ``run``, or ``dry_run`` with --dry_run, with the configuration and the workdir.

    Exits with code 1 and one sentence after an error that a user can correct or the loss of another
    process of the run, with 143 once a run that got SIGTERM is saved, and with 130 after Ctrl-C.
    """
    if "--help" in sys.argv:
        print(sys.modules["__main__"].__doc__)
        print(flags.FLAGS.module_help(__name__))
        print(settings_help())
        return
    try:
        sys.argv = renamed.command_line(sys.argv)
        config, workdir = parse(sys.argv)
        validate(config)
        # By default GPUs and TPUs round the operands of float32 products.
        jax.config.update("jax_default_matmul_precision", config.model.precision)
        # Orbax logs errors, with tracebacks, before it raises them.
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
        message, code = _explain(error)
        if message is None:
            _on_abort("error: see the traceback above.", code)
            raise
        _exit(error, message, code)


_LOST = (
    "Another process of this run has ended or cannot be reached ({}); the same command in every "
    "process continues from the last checkpoint."
)

_NO_MEMORY = (
    "The device's memory is too small ({}); a smaller batch_size takes less, as do, when "
    "pretraining, --config.model.remat=True, --config.model.dtype=bfloat16 and "
    "--config.data.feed=disk."
)


def _explain(error: BaseException) -> tuple[str | None, int]:
    """The message of an error, None where the traceback tells more, and the exit code."""
    if isinstance(error, Preempted):
        return str(error), 128 + signal.SIGTERM
    if isinstance(error, KeyboardInterrupt):
        message = "Interrupted; the same command goes on, from the last checkpoint if any."
        return message, 128 + signal.SIGINT
    if isinstance(error, (UserError, WriteError)):
        message = str(error)
    elif isinstance(error, OSError) and error.errno in NO_ROOM:
        message = (
            f"{error.filename or _WORKDIR.value} cannot be written ({reason(error)}); the "
            "same command continues from the last checkpoint once that is put right."
        )
    elif parallel.lost_process(error):
        message = _LOST.format(reason(error))
    elif isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
        message = _NO_MEMORY.format(reason(error))
    else:
        return None, 1
    return f"error: {message}", 1


def _exit(error: BaseException, message: str, code: int) -> None:
    """Exits with a message and a code, together with the other processes if they exit too."""
    several = jax.distributed.is_initialized()
    if code != 1 or several or isinstance(error, WriteError):
        print(message, file=sys.stderr)
    if several and not parallel.lost_process(error):
        # Printed once more if the others do not come.
        _on_abort(message, code)
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            jax.distributed.shutdown()
    if several or isinstance(error, WriteError):
        # Skips threads and handlers that would wait for the others, and Orbax's, which would report
        # a failed save again.
        _exit_now(code)
    sys.exit(message if code == 1 else code)


def _on_abort(message: str, code: int) -> None:
    """Prints a message when the runtime aborts this process, one of several."""

    def leave() -> None:
        print(message, file=sys.stderr)
        _exit_now(code)

    if _COORDINATOR.value:
        parallel.on_abort(leave)


def _exit_now(code: int) -> None:
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
    """Raises UserError if a device that JAX_PLATFORMS names cannot be used."""
    wanted = jax.config.values["jax_platforms"] or ""
    hint = "check the device's driver, or set JAX_PLATFORMS=cpu to do without"
    missing = f"JAX_PLATFORMS={wanted} asks for a device that JAX does not find; {hint}."
    try:
        found = jax.default_backend()
    except AssertionError:
        # JAX's own, if no named platform exists.
        raise UserError(missing) from None
    except RuntimeError as error:
        raise UserError(f"JAX's device cannot be used ({reason(error)}); {hint}.") from error
    # Without a GPU's device file JAX ignores "cuda" silently.
    require(found != "cpu" or not wanted.startswith(("cuda", "gpu")), missing)


def parse(argv: list[str]) -> tuple[Config, Path]:
    """The configuration and the workdir of a command line.

    Raises:
      UserError: a flag or configuration key is wrong or missing.
    """
    try:
        rest = flags.FLAGS(argv)
        loaded = isinstance(_CONFIG.value, Config)
    # A configuration file is a program that can raise anything.
    except Exception as error:
        raise UserError(_mistake(error, argv)) from error
    if len(rest) > 1:
        raise UserError(f"The command line has {rest[1]!r}, which belongs to no flag.")
    for flag, name in ((_CONFIG, "config"), (_WORKDIR, "workdir")):
        if not flag.value:
            raise UserError(f"The command line lacks --{name}: {flags.FLAGS[name].help}")
    if not loaded:
        file = config_flags.get_config_filename(flags.FLAGS["config"])
        raise UserError(f"The configuration file {file!r} is missing, or returns no configuration.")
    workdir = flags.FLAGS.workdir
    for flag, place in (("workdir", workdir), ("config.data.dir", _CONFIG.value.data.dir)):
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
    return _CONFIG.value, Path(workdir)


def settings_help() -> str:
    """Every setting by section, with its default, its range or choices, and its meaning."""

    def lines(holder: Section, prefix: str) -> list[str]:
        found, inner = [], []
        for name, value in vars(holder).items():
            if isinstance(value, Section):
                heading = (type(value).__doc__ or "").splitlines()[0]
                inner += ["", f"{prefix}{name}: {heading}", *lines(value, f"{prefix}{name}.")]
            else:
                found.append(f"  --{prefix}{name}={value!r}: {holder.describe(name)}")
        return found + inner

    return "\n".join(["Settings:", *lines(config_class()(), "config.")])


def _mistake(error: Exception, argv: list[str]) -> str:
    """One sentence for an error of the command line or of the configuration file."""
    files = {Path(frame.filename).name for frame in traceback.extract_tb(error.__traceback__)}
    message = str(error).strip()
    # Where ml_collections looks up the keys of overrides.
    if isinstance(error, (AttributeError, KeyError)) and "config_path.py" in files:
        known = config_class()().flat()
        for argument in argv:
            key = argument.partition("config.")[2].partition("=")[0]
            if key and key not in known:
                near = difflib.get_close_matches(key, known, 1)
                hint = f"; did you mean {near[0]!r}?" if near else "."
                return f"{argument} sets a key that the configuration does not have{hint}"
    if isinstance(error, flags.Error) and "Traceback" not in message:
        return f"The command line is wrong: {' '.join(message.split()).rstrip('.')}."
    # Some messages of ml_collections are whole tracebacks; their last line is the reason.
    reason = message.splitlines()[-1].strip() if message else "no reason given"
    if not isinstance(error, (flags.Error, UserError)):
        reason = f"{type(error).__name__}: {reason}"
    return f"The configuration file cannot be used: {reason.rstrip('.')}."
