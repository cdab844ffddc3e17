"""Settings renamed since earlier versions, so that old configurations stay readable."""

from collections.abc import Container, Mapping
from typing import Any

# Key in earlier versions → current key.
KEYS = {
    "data.stream_threads": "data.read_threads",
    "model.rematerialise": "model.remat",
    "peers": "benchmark.torch_baseline",
    "scale": "tables.scale",
    "table": "tables.number",
    "table_seeds": "tables.seeds",
    "table_data": "tables.data",
    "table_cells": "tables.cells",
    "table_runs": "tables.runs",
}
# (last part of the key, value in earlier versions) → current value.
VALUES = {("feed", "stream"): "disk", ("recurrence", "stepwise"): "causal"}
# In earlier versions CMD was a task, not a method.
METHOD_TASKS = {"cmd": {"task": "pretrain", "method.name": "cmd"}}


def attribute(name: str, fields: Container[str]) -> str | None:
    """The current name of a setting in a section with these fields; None if it was not renamed."""
    for old, new in KEYS.items():
        if old.rpartition(".")[2] == name and (found := new.rpartition(".")[2]) in fields:
            return found
    return None


def value(name: str, given: Any) -> Any:
    """The current form of a setting's value."""
    return VALUES.get((name, given), given) if isinstance(given, str) else given


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted keys, with old keys and values replaced by the current ones."""
    found: dict[str, Any] = {}
    for key, given in settings.items():
        if key == "task" and isinstance(given, str) and given in METHOD_TASKS:
            found |= METHOD_TASKS[given]
        else:
            key = KEYS.get(key, key)
            found[key] = value(key.rpartition(".")[2], given)
    return found


def command_line(arguments: list[str]) -> list[str]:
    """Arguments with old ``--config.KEY=VALUE`` overrides replaced by the current ones."""
    found = []
    for argument in arguments:
        head, dot, rest = argument.partition("config.")
        key, equals, given = rest.partition("=")
        if dot and head in ("-", "--", "-no", "--no"):
            settings = flat({key: given})
            found += [f"{head}config.{k}{equals}{v}" for k, v in settings.items()]
        else:
            found.append(argument)
    return found
