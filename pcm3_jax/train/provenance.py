"""What a run was made with: its command, code, packages, device and data."""

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
from ml_collections import ConfigDict

from pcm3_jax.data import recordings
from pcm3_jax.runtime.files import write_json
from pcm3_jax.train.checkpoint import PROVENANCE_FILE, latest_checkpoint

PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets",
    "array_record", "grain", "ml_collections",
)  # fmt: skip
# Tasks that read the results of other runs instead of a data set.
WITHOUT_DATA = ("fusion", "table")


def record(workdir: Path, config: ConfigDict) -> None:
    """Adds this start to the list in the workdir's ``provenance.json``.

    Raises:
      UserError: the configuration's data set is not there.
    """
    # The others need not read the whole data set for what they do not write.
    if jax.process_index() == 0:
        path = workdir / PROVENANCE_FILE
        earlier = json.loads(path.read_text()) if path.exists() else []
        write_json(path, [*earlier, describe(config)])


def describe(config: ConfigDict) -> dict[str, Any]:
    """Where, when and from what this process runs."""
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
        "data": None if config.task in WITHOUT_DATA else data_set(config),
    }


def commit(checkout: Path) -> str | None:
    """The commit that is checked out there, "+changes" if files differ; None if it is no checkout.

    An installed package may lie below a checkout of something else, which does not count.
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


def encoder(config: ConfigDict) -> str | None:
    """Of a pretraining run that ``config.encoder`` names the last checkpoint, else what it names.

    None of a random encoder.
    """
    named = Path(config.encoder)
    return str(latest_checkpoint(named) or named.absolute()) if config.encoder else None


def data_set(config: ConfigDict) -> dict[str, str]:
    """Name and fingerprint, the SHA-256 of all its files, of the configuration's data set.

    report.json is left out: identical builds differ in its paths and in the memory they took.
    """
    folder = recordings.find(config.data.name, config.data.dir)
    digest = hashlib.sha256()
    for path in sorted(set(folder.iterdir()) - {folder / "report.json"}):
        digest.update(path.name.encode())
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return {"name": config.data.name, "fingerprint": digest.hexdigest()[:16]}
