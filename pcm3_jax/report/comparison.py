"""How runs differ in what made them: code, packages, devices, data and commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pcm3_jax.report.runs import Run

_Start = dict[str, Any]
# Packages named one by one; a page is no lock file.
_MOST_PACKAGES = 8


def _code(start: _Start) -> str:
    commit = start.get("commit")
    return f"{start.get('version')} {f'at {commit}' if commit else 'outside git'}"


def _device(start: _Start) -> str:
    return (
        f"{start.get('devices')} × {start.get('device')}, {start.get('processes')} "
        f"process{'es' if start.get('processes') != 1 else ''}"
    )


def _data(start: _Start) -> str | None:
    data = start.get("data", "unknown")
    return f"{data.get('name')} {data.get('fingerprint')}" if isinstance(data, dict) else data


def _command(start: _Start) -> str:
    """The command without its workdir, in which all runs differ."""
    words = start.get("command")
    words = list(map(str, words)) if isinstance(words, list) else ["unknown"]
    kept, skip = [], False
    for word in words:
        if not skip and not word.startswith("--workdir="):
            kept += [] if word == "--workdir" else [word]
        skip = word == "--workdir"
    return " ".join(kept)


# None where a run has no such thing: the fusion of other runs reads no data.
ASPECTS: dict[str, Callable[[_Start], str | None]] = {
    "Code version": _code,
    "Python": lambda start: str(start.get("python")),
    "Device": _device,
    "Data": _data,
    "Command": _command,
}


def warnings(runs: list[Run]) -> list[str]:
    """One sentence for everything in which the runs, or the starts of one run, are unlike."""
    known = [run for run in runs if run.starts]
    found = [
        f"{run.name} has no provenance.json: its code version, packages, device, data and command "
        "cannot be compared."
        for run in runs
        if not run.starts
    ]
    changed = [r.name for r in known if str(r.starts[-1].get("commit")).endswith("+changes")]
    if changed:
        found.append(f"Started with changes that were not committed: {', '.join(changed)}.")
    for run in known:
        starts = {f"start {i}": start for i, start in enumerate(run.starts, 1)}
        found += [f"{run.name} was continued differently. {text}" for text in _unlike(starts)]
    return found + _unlike({run.name: run.starts[-1] for run in known})


def _unlike(starts: dict[str, _Start]) -> list[str]:
    found = []
    for name, aspect in ASPECTS.items():
        values = {who: value for who, start in starts.items() if (value := aspect(start))}
        kinds = len(set(values.values()))
        if kinds > 2:
            found.append(f"{name} differs in {kinds} ways, which the provenance tells.")
        elif kinds == 2:
            found.append(f"{name} differs: {_grouped(values)}.")
    return found + _unlike_packages(starts)


def _unlike_packages(starts: dict[str, _Start]) -> list[str]:
    packages = {who: packages_of(start) for who, start in starts.items()}
    differing = []
    for package in sorted(set().union(*packages.values())):
        versions = {who: found.get(package, "not installed") for who, found in packages.items()}
        if len(set(versions.values())) > 1:
            differing.append(f"{package} {_grouped(versions)}")
    if not differing:
        return []
    more = len(differing) - _MOST_PACKAGES
    rest = f"; and {more} more" if more > 0 else ""
    return [f"Packages differ: {'; '.join(differing[:_MOST_PACKAGES])}{rest}."]


def packages_of(start: _Start) -> dict[str, str]:
    """Versions by package; {} where they are not known."""
    packages = start.get("packages")
    if not isinstance(packages, dict):
        return {}
    return {str(name): str(version) for name, version in packages.items()}


def _grouped(values: dict[str, str]) -> str:
    """ "value (who, who) – value (who)"."""
    groups: dict[str, list[str]] = {}
    for who, value in values.items():
        groups.setdefault(value, []).append(who)
    return " – ".join(f"{value} ({', '.join(who)})" for value, who in groups.items())


def table(runs: list[Run]) -> dict[str, Any] | None:
    """What made each run, of its last start; None where no run tells."""
    known = [run for run in runs if run.starts]
    if not known:
        return None
    rows = [
        ["Started", *(str(run.starts[0].get("time")) for run in known)],
        ["Continued", *(_times(len(run.starts) - 1) for run in known)],
        *(
            [name, *(aspect(run.starts[-1]) or "–" for run in known)]
            for name, aspect in ASPECTS.items()
        ),
    ]
    packages = [packages_of(run.starts[-1]) for run in known]
    for package in sorted(set().union(*packages)):
        rows.append([package, *(found.get(package, "–") for found in packages)])
    return {"columns": ["", *(run.name for run in known)], "rows": rows}


def _times(count: int) -> str:
    return {0: "never", 1: "once"}.get(count, f"{count} times")
