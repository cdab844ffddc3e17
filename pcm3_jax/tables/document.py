"""A table's files, with measured and published figures: results.json, results.md, results.csv."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcm3_jax.runtime.files import write_csv, write_json, write_text
from pcm3_jax.tables.paper import Column, Table, published
from pcm3_jax.train.workdir import RESULTS_FILE

_NO_VALUE = "–"


def document(
    number: int,
    scale: str,
    seeds: Sequence[int],
    spec: Table,
    columns: list[Column],
    measured: dict[tuple[str, str], dict[str, Any]],
    folder: Path,
) -> dict[str, Any]:
    """The content of results.json: measured rows, each before its published row.

    Args:
      number, scale, seeds: settings of the table.
      spec: the table's definition.
      columns: columns of the measured data sets.
      measured: measured cells by (row, column).
      folder: folder of the runs.
    """
    theirs = published(number)
    ours = {row.name: row for row in spec.rows}
    headings = [column.heading for column in columns]
    papers = [column.heading for column in spec.columns(spec.benchmarks)]
    rows = []
    # Rows that the paper's table does not have come first.
    for name in [*(name for name in ours if name not in theirs), *theirs]:
        marks = list(ours[name].marks if name in ours and len(spec.marks) > 1 else [name])
        marks += [""] * (len(spec.marks) - len(marks))
        head = {"method": name, "marks": marks}
        if name in ours:
            cells = {h: measured[name, h] for h in headings if (name, h) in measured}
            rows.append({**head, "source": "here", "cells": cells})
        if name in theirs:
            source = "published" if name in ours else "published, not run here"
            cells = {h: {"mean": value} for h, value in theirs[name].items()}
            rows.append({**head, "source": source, "cells": cells})
    others = [h for h in headings if h not in papers]
    return {
        "table": number,
        "title": spec.title,
        "scale": scale,
        "seeds": list(seeds),
        "runs": str(folder),
        "marks": list(spec.marks),
        "columns": [*headings, *(h for h in papers if h not in headings)],
        "notes": _notes(scale, others) if theirs else [],
        "rows": rows,
    }


def _notes(scale: str, others: list[str]) -> list[str]:
    notes = ["Rows marked published are the paper's own figures; the others were measured here."]
    if others:
        notes.append(
            f"These data sets are not in the paper's table: {', '.join(others)}. Compare the "
            "order of the methods on them with the published order, not the numbers."
        )
    if scale != "paper":
        notes.append(
            f"Measured at {scale} scale: smaller networks, shorter training and shorter "
            "sequences than the paper's."
        )
    return notes


def write(document: dict[str, Any], workdir: Path) -> None:
    """Writes the three files, each atomically."""
    lines = grid(document)
    text = io.StringIO()
    write_csv(text, lines)
    for name, content in (("results.csv", text.getvalue()), ("results.md", _markdown(document))):
        write_text(workdir / name, content)
    write_json(workdir / RESULTS_FILE, document)


def grid(document: dict[str, Any]) -> list[list[str]]:
    """Heading and rows of the table as text."""

    def line(marks: list[str], source: str, runs: str, cells: list[str]) -> list[str]:
        # Table 0 has no published rows.
        return [*marks, source, runs, *cells] if document["table"] else [*marks, *cells, runs]

    lines = [line(document["marks"], "source", "runs", document["columns"])]
    for row in document["rows"]:
        counts = sorted({cell["runs"] for cell in row["cells"].values() if cell.get("runs")})
        cells = [_text(row["cells"].get(heading)) for heading in document["columns"]]
        runs = "–".join(map(str, dict.fromkeys([*counts[:1], *counts[-1:]])))
        lines.append(line(row["marks"], row["source"], runs, cells))
    return lines


def _text(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return _NO_VALUE
    if cell["mean"] is None:
        return "not run"
    deviation = f" ± {cell['std']:.1f}" if cell.get("std") is not None else ""
    return f"{cell['mean']:.1f}{deviation}"


def _markdown(document: dict[str, Any]) -> str:
    heading, *rows = grid(document)
    texts = len(document["marks"]) + ("source" in heading)
    rule = ["---"] * texts + ["---:"] * (len(heading) - texts)
    lines = [f"| {' | '.join(line)} |" for line in (heading, rule, *rows)]
    missing: dict[str, list[str]] = {}
    folders = []
    for row in document["rows"]:
        for column, cell in row["cells"].items():
            name = f"{row['method']}/{column}"
            for reason in cell.get("reasons", ()):
                missing.setdefault(reason, []).append(name)
            for needs, runs in zip(cell.get("needs", ()), cell.get("folders", ()), strict=True):
                chain = dict.fromkeys([*needs, *runs])
                folders.append(f"- {name}: {', '.join(f'`{run}`' for run in chain)}")
    number = f"Table {document['table']}: " if document["table"] else ""
    parts = [f"# {number}{document['title']}", "\n".join(lines)]
    parts += document["notes"]
    if missing:
        parts.append("Not run, or not with every seed:")
        parts.append("\n".join(f"- {', '.join(cells)}: {why}" for why, cells in missing.items()))
    if folders:
        parts += [f"Runs of every seed, in {document['runs']}:", "\n".join(folders)]
    return "\n\n".join(parts) + "\n"
