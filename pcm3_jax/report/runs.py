"""Reading workdirs of any task, whole or still being written."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from pcm3_jax.errors import UserError
from pcm3_jax.train.checkpoint import CONFIG_FILE, PROVENANCE_FILE, read_config


@dataclasses.dataclass(frozen=True)
class Run:
    """What a workdir holds.

    Attributes:
      path: the workdir.
      name: what the report calls it, unlike every other run's name.
      config: complete, younger settings at their defaults.
      metrics: the lines of ``metrics.jsonl`` of the run itself (""), and of each training inside
        it, by the name of its folder ("draw_0").
      results: of a run that is through, else None.
      starts: the objects of ``provenance.json``, one a start; [] where it was not written.
      checkpoints: steps of which a checkpoint is kept, rising.
    """

    path: Path
    name: str
    config: ConfigDict
    metrics: dict[str, list[dict[str, Any]]]
    results: dict[str, Any] | None
    starts: list[dict[str, Any]]
    checkpoints: list[int]


def read_runs(workdirs: list[Path]) -> tuple[list[Run], dict[str, dict[str, Any]]]:
    """The runs in some workdirs, and the figures of the benchmarks among them by name.

    Raises:
      UserError: one is missing, holds neither run nor benchmark, or has a file that is damaged.
    """
    names = short_names(workdirs)
    runs, benchmarks = [], {}
    for path, name in zip(workdirs, names, strict=True):
        if not path.is_dir():
            raise UserError(f"There is no folder {path}: name the workdirs of runs.")
        figures = _optional_object(path / "benchmark.json")
        if figures is not None:
            benchmarks[name] = figures
        if figures is None or (path / CONFIG_FILE).exists():
            runs.append(_read_run(path, name))
    return runs, benchmarks


def short_names(paths: list[Path]) -> list[str]:
    """The fewest last parts of each path that tell it from the others.

    Raises:
      UserError: a path is named twice.
    """
    parts = [path.resolve().parts for path in paths]
    for index, path in enumerate(parts):
        if path in parts[:index]:
            raise UserError(f"{paths[index]} is named twice.")
    names = []
    for own in parts:
        others = [path for path in parts if path != own]
        count = 1
        while any(path[-count:] == own[-count:] for path in others):
            count += 1
        names.append("/".join(own[-count:]))
    return names


def _read_run(path: Path, name: str) -> Run:
    config = read_config(path)
    inner = sorted(path.glob("draw_*/metrics.jsonl"))
    files = {"": path / "metrics.jsonl"} | {file.parent.name: file for file in inner}
    folders = (path / "checkpoints").glob("*/state")
    steps = [folder.parent.name for folder in folders if folder.parent.name.isdigit()]
    return Run(
        path=path,
        name=name,
        config=config,
        metrics={key: read_metrics(file) for key, file in files.items() if file.exists()},
        results=_optional_object(path / "results.json"),
        starts=_read_starts(path / PROVENANCE_FILE),
        checkpoints=sorted(map(int, steps)),
    )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``; a last one that is being written is left out.

    Raises:
      UserError: names the line that is no metrics.
    """
    lines = _text(path).splitlines(keepends=True)
    metrics = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict) or type(entry.get("step")) is not int:
                raise ValueError("an object with a step is expected")
        except ValueError as error:
            if number == len(lines) and not line.endswith("\n"):
                break
            raise UserError(f"{path}, line {number}, holds no metrics: {error}.") from error
        metrics.append(entry)
    return metrics


def _read_starts(path: Path) -> list[dict[str, Any]]:
    starts = _optional_json(path)
    if starts is None:
        return []
    if not isinstance(starts, list) or not all(isinstance(start, dict) for start in starts):
        raise UserError(f"{path} is no list with one object a start.")
    return starts


def _optional_object(path: Path) -> dict[str, Any] | None:
    content = _optional_json(path)
    if content is not None and not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object.")
    return content


def _optional_json(path: Path) -> Any:
    if not path.exists():
        return None
    try:
        return json.loads(_text(path))
    except ValueError as error:
        raise UserError(f"{path} is not readable as JSON: {error}.") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
