"""Command-line flags, error messages and exit codes of the entry points that take a configuration.

--config=FILE --workdir=DIR [--config.key=value …], and the flags of a multi-process run.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from pcm3_jax.config import Config, config_class, validate
from pcm3_jax.errors import NO_ROOM, UserError, WriteError, reason, shortage, suggestion
from pcm3_jax.runtime import commands, parallel
from pcm3_jax.settings import Section, renamed, require
from pcm3_jax.train.loop import Preempted

# The checkout's configs/, which is installed with the package.
_INSTALLED = Path(__file__).parents[1] / "configs"
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file, e.g. configs/demo.py."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Output folder of the run.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of process 0 in a multi-process run; auto on a Cloud TPU."
)
_PROCESSES = flags.DEFINE_integer("processes", 1, "Number of processes in the run.")
_PROCESS = flags.DEFINE_integer("process", 0, "Index of this process, from 0.")
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Check everything, print the estimated time and memory, and exit."
)


def main(
    run: Callable[[Config, Path], object],
    dry_run: Callable[[Config, Path], object] | None = None,
) -> None:
    """Calls ``run``, or ``dry_run`` with --dry_run, with the configuration and the workdir.

    Exit codes: 1, with a one-sentence message, after an error that the user can correct or after
    another process of the run is lost; 143 after SIGTERM, once the state is saved; 130 after
    Ctrl-C.
    """
    commands.open_streams()
    try:
        if "--help" in sys.argv:
            print(sys.modules["__main__"].__doc__)
            print(flags.FLAGS.module_help(__name__))
            print(settings_help(), flush=True)
            return
        sys.argv = [installed(argument) for argument in renamed.command_line(sys.argv)]
        config, workdir = parse(sys.argv)
        validate(config)
        # JAX's default precision allows TF32 (GPU) and bfloat16 (TPU) for float32 matmuls.
        jax.config.update("jax_default_matmul_precision", config.model.precision)
        _join_processes()
        _require_devices()
        if _DRY_RUN.value:
            if dry_run is None:
                raise UserError("--dry_run is for pcm3_jax.main only.")
            run = dry_run
        run(config, workdir)
        parallel.wait_for_all("finished")
        sys.stdout.flush()
    except BrokenPipeError:
        commands.close_output()
        # Also skips the wait for other processes, which lose this one.
        _exit_now(1)
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
    "The device's memory is too small ({}); use a smaller batch_size or, when pretraining, "
    "--config.model.remat=True, --config.model.dtype=bfloat16 or --config.data.feed=disk."
)


def _explain(error: BaseException) -> tuple[str | None, int]:
    """(message, exit code) of an error; the message is None if the traceback should be shown."""
    if isinstance(error, Preempted):
        return str(error), 128 + signal.SIGTERM
    if isinstance(error, KeyboardInterrupt):
        message = (
            "Interrupted; the same command continues from the last checkpoint, if there is one."
        )
        return message, 128 + signal.SIGINT
    if isinstance(error, (UserError, WriteError)):
        message = str(error)
    elif isinstance(error, OSError) and error.errno in NO_ROOM:
        message = (
            f"{error.filename or 'The output'} cannot be written ({reason(error)}); the "
            "same command continues from the last checkpoint once this is fixed."
        )
    elif isinstance(error, OSError) and error.filename:
        message = commands.unusable(error)
    elif parallel.lost_process(error):
        message = _LOST.format(reason(error))
    elif isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
        message = _NO_MEMORY.format(reason(error))
    elif lacking := shortage(error):
        message = (
            f"The run has ended: {lacking}; the same command continues from the last checkpoint."
        )
    else:
        return None, 1
    return f"error: {message}", 1


def _exit(error: BaseException, message: str, code: int) -> None:
    """Exits with a message and a code; waits at shutdown for other processes that exit too."""
    several = jax.distributed.is_initialized()
    if code != 1 or several or isinstance(error, WriteError):
        print(message, file=sys.stderr)
    if several and not parallel.lost_process(error):
        # If the other processes do not reach the shutdown barrier, the runtime aborts this one, and
        # the handler prints the message again as the last line.
        _on_abort(message, code)
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            jax.distributed.shutdown()
    if several or isinstance(error, WriteError):
        # Skips exit handlers and threads that would wait for the other processes, and Orbax's exit
        # handler, which would report a failed save a second time.
        _exit_now(code)
    sys.exit(message if code == 1 else code)


def _on_abort(message: str, code: int) -> None:
    """In a multi-process run, prints ``message`` and exits when the runtime aborts this process."""

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
        "The processes of this run have not found each other ({}); start all of them within five "
        "minutes, with the same --coordinator and --processes."
    )
    _on_abort(f"error: {message.format('see above')}", 1)
    try:
        parallel.join_processes(*(() if _COORDINATOR.value == "auto" else given))
    except jax.errors.JaxRuntimeError as error:
        raise UserError(message.format(reason(error))) from error
    _on_abort(f"error: {_LOST.format('see above')}", 1)


def _require_devices() -> None:
    """Raises UserError if JAX cannot use its device, or the platform in JAX_PLATFORMS."""
    wanted = jax.config.values["jax_platforms"] or ""
    hint = "check the device's driver, or set JAX_PLATFORMS=cpu to run on the CPU"
    missing = f"JAX_PLATFORMS={wanted} asks for a device that JAX does not find; {hint}."
    try:
        found = jax.default_backend()
    except AssertionError:
        # JAX raises this if none of the platforms in JAX_PLATFORMS exists.
        raise UserError(missing) from None
    except RuntimeError as error:
        raise UserError(f"JAX's device cannot be used ({reason(error)}); {hint}.") from error
    # JAX silently ignores "cuda" if there is no GPU device file.
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
        raise UserError(f"The command line has {rest[1]!r}, which is not a flag or its value.")
    for flag, name in ((_CONFIG, "config"), (_WORKDIR, "workdir")):
        if not flag.value:
            raise UserError(f"The command line lacks --{name}: {flags.FLAGS[name].help}")
    if not loaded:
        file = config_flags.get_config_filename(flags.FLAGS["config"])
        raise UserError(f"The configuration file {file!r} is missing, or returns no configuration.")
    workdir = flags.FLAGS.workdir
    for flag, place in (("workdir", workdir), ("config.data.dir", _CONFIG.value.data.dir)):
        require(
            "://" not in place,
            f"--{flag}={place} is a URL, not a folder: mount it and give the path of the mount.",
        )
    processes, process = _PROCESSES.value, _PROCESS.value
    coordinator = _COORDINATOR.value
    require(
        coordinator in (None, "", "auto") or re.fullmatch(r".+:\d{1,5}", coordinator) is not None,
        f"--coordinator={coordinator} must be HOST:PORT, such as 10.0.0.1:1234, or auto.",
    )
    require(
        (processes, process) == (1, 0) or _COORDINATOR.value not in (None, "", "auto"),
        f"--processes={processes} --process={process} need --coordinator=HOST:PORT.",
    )
    require(
        0 <= process < processes,
        f"--process is {process}, but must be at least 0 and less than --processes={processes}.",
    )
    return _CONFIG.value, Path(workdir)


def installed(argument: str) -> str:
    """An argument as it is, or --config=configs/NAME.py with the path of the package's file.

    A file of that name in the current folder comes first.
    """
    if found := re.fullmatch(r"(--?config=)?configs/([^:]+)(:.*)?", argument):
        flag, name, options = found.groups(default="")
        if not Path("configs", name).exists() and (_INSTALLED / name).exists():
            return f"{flag}{_INSTALLED / name}{options}"
    return argument


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
    # ml_collections looks up the keys of overrides in this file.
    if isinstance(error, (AttributeError, KeyError)) and "config_path.py" in files:
        known = config_class()().flat()
        for argument in argv:
            key = argument.partition("config.")[2].partition("=")[0]
            if key and key not in known:
                end = suggestion(key, known) or "."
                return f"{argument} sets a key that the configuration does not have{end}"
    if isinstance(error, flags.Error) and "Traceback" not in message:
        return f"The command line is wrong: {' '.join(message.split()).rstrip('.')}."
    # Some messages of ml_collections are whole tracebacks; their last line is the reason.
    reason = message.splitlines()[-1].strip() if message else "no reason given"
    if not isinstance(error, (flags.Error, UserError)):
        reason = f"{type(error).__name__}: {reason}"
    return f"The configuration file cannot be used: {reason.rstrip('.')}."
