"""Checks that a workdir belongs to the run, and locks it against other runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import jax

from pcm3_jax.errors import Busy, UserError
from pcm3_jax.runtime.files import PARTIAL, lock, read_json, write_json
from pcm3_jax.runtime.parallel import agreed, wait_for_all
from pcm3_jax.settings import Config

AnyConfig = TypeVar("AnyConfig", bound=Config)

# The first two are written before the task begins.
CONFIG_FILE, PROVENANCE_FILE, RESULTS_FILE = "config.json", "provenance.json", "results.json"
METRICS_FILE = "metrics.jsonl"
_LOCK_FILE = ".lock"
# Seconds to wait for a file on a network disk to become visible; NFS takes up to 60 by default.
_NETWORK_DISK_SECONDS = 90


def has_begun(workdir: Path) -> bool:
    """Whether a workdir holds more than an earlier start writes before its task."""
    return bool(_names(workdir) - {CONFIG_FILE, PROVENANCE_FILE})


def _names(workdir: Path) -> set[str]:
    """Names of a run's files in a workdir; raises UserError if it cannot be read."""
    try:
        names = {entry.name for entry in workdir.iterdir()}
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise UserError(f"Workdir {workdir} cannot be read: {error.strerror}.") from error
    # Ignore partial files of killed processes.
    return {name for name in names if not name.startswith(PARTIAL) and name != _LOCK_FILE}


def check_workdir(workdir: Path, config: Config) -> None:
    """Checks that the workdir is empty or belongs to a run with these settings.

    Files of a run that ended before its task wrote anything (e.g. without its data) are ignored.

    Raises:
      UserError: it belongs to a run with other settings, or holds other files.
    """
    found = _names(workdir)
    if not has_begun(workdir):
        return
    if CONFIG_FILE not in found:
        raise UserError(
            f"Workdir {workdir} is not empty, but holds no run ({CONFIG_FILE} is missing): choose "
            "another --workdir."
        )
    theirs, ours = read_config(workdir, type(config)).flat(), config.flat()
    # Earlier versions stored relative paths.
    theirs["encoder"] = absolute_encoder(theirs["encoder"])
    ours["encoder"] = absolute_encoder(ours["encoder"])
    differing = [
        f"config.{key} (there {theirs[key]!r}, here {ours[key]!r})"
        for key in sorted(ours.keys() - free_keys(config))
        if theirs[key] != ours[key]
    ]
    if differing:
        raise UserError(
            f"Workdir {workdir} belongs to a run with other settings: "
            f"{', '.join(differing)}; choose another --workdir, or use those settings."
        )


def absolute_encoder(encoder: str) -> str:
    """``config.encoder`` with an absolute path, so that another folder reads the same model."""
    return str(Path(encoder).absolute()) if encoder and Path(encoder).exists() else encoder


def claim_workdir(workdir: Path, config: Config) -> None:
    """Checks the workdir with `check_workdir` and writes the configuration to it.

    Raises:
      UserError: it belongs to a run with other settings, cannot be written, or is not on a disk
        that all processes see.
    """
    check_workdir(workdir, config)
    # All processes must check the workdir before any of them writes to it.
    wait_for_all("claim_workdir")
    if jax.process_index() == 0:
        with _writable(workdir):
            write_json(workdir / CONFIG_FILE, config.to_dict())
    wait_for_all("claimed_workdir")
    deadline = time.monotonic() + _NETWORK_DISK_SECONDS
    while not (found := (workdir / CONFIG_FILE).exists()) and time.monotonic() < deadline:
        time.sleep(1)
    if not agreed(found):
        raise UserError(
            f"Workdir {workdir} is not on a disk that all processes see: some of them do not find "
            f"the {CONFIG_FILE} written by process 0."
        )


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Locks a workdir against other runs.

    Raises:
      Busy: another process holds the lock.
      UserError: it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        free = True
        if jax.process_index() == 0:
            with _writable(workdir):
                free = stack.enter_context(lock(workdir / _LOCK_FILE))
        if not agreed(free):
            raise Busy(
                f"Another process is running in workdir {workdir}: wait for it, or choose another "
                "--workdir."
            )
        yield


@contextlib.contextmanager
def _writable(workdir: Path) -> Iterator[None]:
    """Creates the workdir; converts failed writes to it into a UserError."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(f"Workdir {workdir} cannot be written: {error.strerror}.") from error


def free_keys(config: Config) -> set[str]:
    """Keys of settings that may change when a run is continued."""
    return {key for key, _, field in config.walk() if field.metadata["free"]}


def read_config(workdir: Path, kind: type[AnyConfig]) -> AnyConfig:
    """The configuration of the run in a workdir, also if an earlier version wrote it.

    Raises:
      UserError: the workdir has no run, or its configuration cannot be read.
    """
    path = workdir / CONFIG_FILE
    try:
        content = read_json(path, dict, "copy it from a backup, or choose another workdir")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"There is no run in {workdir}: {path} is missing.") from None
    try:
        return kind.from_dict(content)
    except UserError as error:
        raise UserError(f"{path} cannot be used: {error}") from error
