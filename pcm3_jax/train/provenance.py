"""Provenance of a run: command, code, packages, devices and data."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

import pcm3_jax
from pcm3_jax.data import recordings
from pcm3_jax.data.built import CHECKSUMS_FILE, REPORT_FILE
from pcm3_jax.errors import UserError, warn
from pcm3_jax.runtime.files import read_json, write_json
from pcm3_jax.runtime.parallel import agreed
from pcm3_jax.settings import Config
from pcm3_jax.train.checkpoint import latest_checkpoint
from pcm3_jax.train.workdir import PROVENANCE_FILE

PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets",
    "array_record", "grain", "ml_collections",
)  # fmt: skip


def record(workdir: Path, config: Config, *, reads_data: bool, resumed: bool = False) -> None:
    """Adds this start to the list in the workdir's ``provenance.json``.

    Args:
      workdir, config: of the run.
      reads_data: whether the task reads a data set, rather than only results of other runs.
      resumed: whether the run continues what an earlier start has begun.

    Raises:
      UserError: the configuration's data set is missing, or the data set or encoder of a resumed
        run has changed.
    """
    if reads_data:  # in every process, so that each of them says what is missing
        for name in (config.data.name, *config.data.extra):
            recordings.find(name, config.data.dir)
    refusal = None
    if jax.process_index() == 0:  # which alone reads all of the data set
        try:
            _add(workdir, config, reads_data, resumed)
        except UserError as error:
            refusal = error
    if not agreed(refusal is None):
        raise refusal or UserError("Process 0 has refused to start; its message says why.")


def _add(workdir: Path, config: Config, reads_data: bool, resumed: bool) -> None:
    earlier = starts(workdir)
    now = describe(config, reads_data=reads_data)
    changed = _changes(_begun(earlier), now) if resumed else []
    if changed and not config.accept_changed_inputs:
        text = " and ".join(changed)
        raise UserError(
            f"{text[0].upper()}{text[1:]}: restore it, choose another --workdir than {workdir}, or "
            "add --config.accept_changed_inputs=True."
        )
    start = {**now, "resumed": resumed, "accepted_changes": changed}
    write_json(workdir / PROVENANCE_FILE, [*earlier, start])


def starts(workdir: Path) -> list[dict[str, Any]]:
    """The starts that ``provenance.json`` lists; a damaged file is set aside, as it only informs.

    Raises:
      UserError: the file cannot be read.
    """
    path = workdir / PROVENANCE_FILE
    try:
        content = read_json(path, list, "")
        if all(isinstance(start, dict) for start in content):
            return content
    except FileNotFoundError:
        return []
    except UserError as error:
        if isinstance(error.__cause__, OSError):
            raise
    aside = path.with_name(f"{path.name}.damaged")
    path.replace(aside)
    warn(f"{path} was damaged and is now {aside.name}: a changed data set goes unnoticed.")
    return []


def pinned_encoder(workdir: Path, config: Config) -> str:
    """The encoder that the run in a workdir began with, as a value for ``config.encoder``.

    If ``config.encoder`` is a run that has gone on since, this is its last checkpoint of then.
    """
    taken = _begun(starts(workdir)).get("encoder")
    if not config.encoder or not taken or not Path(taken).exists():
        return config.encoder
    named = Path(config.encoder).absolute()
    return taken if Path(taken).is_relative_to(named) else config.encoder


def _begun(earlier: list[dict[str, Any]]) -> dict[str, Any]:
    """The last start that did not resume another; {} if there is none."""
    return next((start for start in reversed(earlier) if start.get("resumed") is False), {})


def _changes(begun: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs, in clauses, between the inputs of a run's beginning and those of now."""
    then, ours = _inputs(begun), _inputs(now)
    return [
        f"the {what} has changed since the run began (checksum {then[what]} then, {mark} now)"
        for what, mark in ours.items()
        if then.get(what) and mark and then[what] != mark
    ]


def _inputs(start: dict[str, Any]) -> dict[str, str | None]:
    """The checksum of each input of a start, by what it is."""
    sets = [start.get("data"), *start.get("extra_data", [])]
    found = {f"data set {data['name']}": data["fingerprint"] for data in sets if data}
    return found | {"encoder": start.get("encoder_checksum")}


def describe(config: Config, *, reads_data: bool = True) -> dict[str, Any]:
    """Time, command, versions, devices, encoder and data of this process."""
    taken = encoder(config)
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.orig_argv,
        "version": pcm3_jax.__version__,
        "commit": commit(Path(__file__).parents[2]),
        "python": platform.python_version(),
        "packages": versions,
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "encoder": taken,
        "encoder_checksum": checksum(Path(taken)) if taken and Path(taken).exists() else None,
        "data": data_set(config.data.name, config.data.dir) if reads_data else None,
        "extra_data": [data_set(name, config.data.dir) for name in config.data.extra],
    }


def commit(checkout: Path) -> str | None:
    """The checked-out commit, with "+changes" if files differ; None if not the root of a checkout.

    Only the root counts, because an installed package may lie inside another project's checkout.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(checkout), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != checkout.resolve():
            return None
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def encoder(config: Config) -> str | None:
    """What ``config.encoder`` names: the absolute path of a file or, of a run, the last checkpoint.

    The name itself if there is no such path, as for a shipped model; None if it is empty.
    """
    if not config.encoder or not (named := Path(config.encoder)).exists():
        return config.encoder or None
    return str(latest_checkpoint(named) or named.absolute())


def checksum(model: Path) -> str | None:
    """Of a model: of a file its bytes, of a checkpoint its own checksums; else None."""
    file = model / "checksums" / "metadata" if model.is_dir() else model
    try:
        with open(file, "rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()[:16]
    except OSError:
        return None


def data_set(name: str, data_dir: str) -> dict[str, str]:
    """Name and fingerprint of a data set: the SHA-256 of its files.

    Left out are report.json, because its paths and memory use differ between identical builds, and
    the checksums of the others.
    """
    folder = recordings.find(name, data_dir)
    digest = hashlib.sha256()
    for path in sorted(set(folder.iterdir()) - {folder / REPORT_FILE, folder / CHECKSUMS_FILE}):
        digest.update(path.name.encode())
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return {"name": name, "fingerprint": digest.hexdigest()[:16]}
