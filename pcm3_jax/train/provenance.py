"""Provenance of a run: command, code, packages, devices and data."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

from pcm3_jax.data import recordings
from pcm3_jax.runtime.files import write_json
from pcm3_jax.settings import Config
from pcm3_jax.train.checkpoint import latest_checkpoint
from pcm3_jax.train.workdir import PROVENANCE_FILE

PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets",
    "array_record", "grain", "ml_collections",
)  # fmt: skip


def record(workdir: Path, config: Config, *, reads_data: bool) -> None:
    """Adds this start to the list in the workdir's ``provenance.json``.

    Args:
      workdir, config: of the run.
      reads_data: whether the task reads a data set, rather than only results of other runs.

    Raises:
      UserError: the configuration's data set is missing.
    """
    # Only process 0 hashes the data set.
    if jax.process_index() == 0:
        path = workdir / PROVENANCE_FILE
        earlier = json.loads(path.read_text()) if path.exists() else []
        write_json(path, [*earlier, describe(config, reads_data=reads_data)])


def describe(config: Config, *, reads_data: bool = True) -> dict[str, Any]:
    """Time, command, versions, devices, encoder and data of this process."""
    versions: dict[str, str | None] = {}
    for package in ("pcm3_jax", *PACKAGES):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.orig_argv,
        "version": versions.pop("pcm3_jax"),
        "commit": commit(Path(__file__).parents[2]),
        "python": platform.python_version(),
        "packages": versions,
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "encoder": encoder(config),
        "data": data_set(config) if reads_data else None,
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


def data_set(config: Config) -> dict[str, str]:
    """Name and fingerprint of the configuration's data set: the SHA-256 of its files.

    report.json is left out, because its paths and memory use differ between identical builds.
    """
    folder = recordings.find(config.data.name, config.data.dir)
    digest = hashlib.sha256()
    for path in sorted(set(folder.iterdir()) - {folder / "report.json"}):
        digest.update(path.name.encode())
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return {"name": config.data.name, "fingerprint": digest.hexdigest()[:16]}
