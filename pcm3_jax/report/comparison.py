"""Differences between runs: settings, code version, packages, device and data."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from pcm3_jax.config import default_config
from pcm3_jax.report.runs import Run

# These differ between any two starts, or are compared as settings.
_NOT_COMPARED = {"time", "command", "encoder", "encoder_checksum", "resumed"}


def settings(runs: list[Run]) -> dict[str, Any]:
    """Every setting, with the paper's value as "default" and each run's as "values".

    "differs": whether the runs differ; "changed": whether one of them differs from the default.
    """
    configs = [default_config().flat(), *(run.config.flat() for run in runs)]
    rows = []
    for key in configs[0]:
        default, *values = [str(config[key]) for config in configs]
        differs, changed = len(set(values)) > 1, any(value != default for value in values)
        row = {"key": key, "default": default, "values": values}
        rows.append(row | {"differs": differs, "changed": changed})
    return {"runs": [run.name for run in runs], "rows": rows}


def provenance(runs: list[Run]) -> dict[str, Any] | None:
    """Provenance of each run's last start, as a table; None if no run has any."""
    known = [run for run in runs if run.starts]
    if not known:
        return None
    starts = [_flat(run.starts[-1]) | {"starts": str(len(run.starts))} for run in known]
    keys = dict.fromkeys(key for start in starts for key in start)
    rows = [[key, *(start.get(key, "–") for start in starts)] for key in keys]
    return {"columns": ["", *(run.name for run in known)], "rows": rows}


def warnings(runs: list[Run]) -> list[str]:
    """Differences in provenance between the runs, or between the starts of one run."""
    known = [run for run in runs if run.starts]
    found = [
        f"{run.name} has no provenance.json, so its code, packages and data cannot be compared."
        for run in runs
        if not run.starts
    ]
    changed = [r.name for r in known if str(r.starts[-1].get("commit")).endswith("+changes")]
    if changed:
        found.append(f"Started with uncommitted changes: {', '.join(changed)}.")
    for run in known:
        starts = {f"start {i}": start for i, start in enumerate(run.starts, 1)}
        found += [
            f"{run.name} was resumed with differences: {text}." for text in _differing(starts)
        ]
    last = {run.name: run.starts[-1] for run in known}
    return found + [f"The runs differ in {text}." for text in _differing(last)]


def _differing(starts: dict[str, dict[str, Any]]) -> list[str]:
    """ "key: value (who, who) – value (who)" for every key whose value differs."""
    values: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for who, start in starts.items():
        for key, value in _flat(start).items():
            values[key][value].append(who)
    return [
        f"{key}: " + " – ".join(f"{value} ({', '.join(who)})" for value, who in groups.items())
        for key, groups in values.items()
        if len(groups) > 1 and key not in _NOT_COMPARED
    ]


def _flat(start: dict[str, Any]) -> dict[str, str]:
    """A start as text, by keys such as "commit" and "packages.jax"."""
    flat = {}
    for key, value in start.items():
        inner = value if isinstance(value, dict) else {"": value}
        for name, fact in inner.items():
            text = " ".join(map(str, fact)) if isinstance(fact, list) else str(fact)
            flat[f"{key}.{name}".rstrip(".")] = "none" if fact is None else text
    return flat
