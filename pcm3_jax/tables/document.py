"""A table's figures beside the published ones: results.json, results.md and results.csv."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from pcm3_jax.runtime.files import write_json, write_text
from pcm3_jax.tables.paper import Column, Table, published

_NO_VALUE = "–"


def document(
    config: ConfigDict,
    spec: Table,
    columns: list[Column],
    measured: dict[tuple[str, str], dict[str, Any]],
) -> dict[str, Any]:
    """All that results.json holds: the rows in the paper's order, ours before the published."""
    theirs = published(config.table)
    ours = {row.name: row for row in spec.rows}
    headings = [column.heading for column in columns]
    papers = [column.heading for column in spec.columns(spec.benchmarks)]
    rows = []
    # What the paper does not have, such as a baseline that was added, comes first.
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
        "table": config.table,
        "title": spec.title,
        "scale": config.scale,
        "seeds": list(config.table_seeds),
        "marks": list(spec.marks),
        "columns": [*headings, *(h for h in papers if h not in headings)],
        "notes": _notes(config, others),
        "rows": rows,
    }


def _notes(config: ConfigDict, others: list[str]) -> list[str]:
    notes = ["Rows marked published are the paper's own figures; the others were measured here."]
    if others:
        notes.append(
            f"Not on data sets of the paper's table: {', '.join(others)}. Compare the order of "
            "the methods there with the published order, not the numbers."
        )
    if config.scale != "paper":
        notes.append(
            f"Measured at {config.scale} scale: smaller networks, shorter training and shorter "
            "sequences than the paper's."
        )
    return notes


def write(document: dict[str, Any], workdir: Path) -> None:
    """The three files, each either as it was or complete."""
    lines = grid(document)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    for name, content in (("results.csv", text.getvalue()), ("results.md", _markdown(document))):
        write_text(workdir / name, content)
    write_json(workdir / "results.json", document)


def grid(document: dict[str, Any]) -> list[list[str]]:
    """Heading and rows of the table as text."""
    lines = [[*document["marks"], "source", "runs", *document["columns"]]]
    for row in document["rows"]:
        counts = sorted({cell["runs"] for cell in row["cells"].values() if cell.get("runs")})
        cells = [_text(row["cells"].get(heading)) for heading in document["columns"]]
        runs = "–".join(map(str, dict.fromkeys([*counts[:1], *counts[-1:]])))
        lines.append([*row["marks"], row["source"], runs, *cells])
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
    marks = len(document["marks"])
    rule = ["---"] * (marks + 1) + ["---:"] * (len(heading) - marks - 1)
    lines = [f"| {' | '.join(line)} |" for line in (heading, rule, *rows)]
    missing: dict[str, list[str]] = {}
    for row in document["rows"]:
        for column, cell in row["cells"].items():
            for reason in cell.get("reasons", ()):
                missing.setdefault(reason, []).append(f"{row['method']}/{column}")
    parts = [f"# Table {document['table']}: {document['title']}", "\n".join(lines)]
    parts += document["notes"]
    if missing:
        parts.append("Not run, or not with every seed:")
        parts.append("\n".join(f"- {', '.join(cells)}: {why}" for why, cells in missing.items()))
    return "\n\n".join(parts) + "\n"
