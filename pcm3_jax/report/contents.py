"""Everything that the page shows, as one tree for JSON."""

from __future__ import annotations

import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pcm3_jax.data.skeleton import BODY_PARTS, PARENTS
from pcm3_jax.report import augmented, comparison, curves, encoders, masked, results, settings
from pcm3_jax.report.runs import Run
from pcm3_jax.report.sequences import Pool
from pcm3_jax.train.checkpoint import CONFIG_FILE
from pcm3_jax.train.provenance import WITHOUT_DATA

Contents = dict[str, Any]


def contents(
    runs: list[Run],
    benchmarks: dict[str, dict[str, Any]],
    splits: encoders.Splits | None,
) -> Contents:
    """Collects what the report shows; ``notes`` says what was left out, and why.

    Args:
      runs: in the page's order.
      benchmarks: figures by name.
      splits: where the data sets come from; None leaves out all that needs them.

    Raises:
      UserError: a data set, an encoder or a file of a run cannot be used.
    """
    now = datetime.datetime.now(datetime.UTC)
    page: Contents = {
        "created": now.strftime("%Y-%m-%d %H:%M UTC"),
        "version": metadata.version("pcm3_jax"),
        "runs": [_summary(run) for run in runs],
        "warnings": comparison.warnings(runs),
        "notes": [],
        "charts": curves.charts(runs, benchmarks),
        "tables": results.tables(runs, benchmarks),
        "settings": settings.table(runs),
        "provenance": comparison.table(runs),
        "skeleton": {
            "parents": PARENTS.tolist(),
            "left": [*BODY_PARTS["left_arm"], *BODY_PARTS["left_leg"]],
            "right": [*BODY_PARTS["right_arm"], *BODY_PARTS["right_leg"]],
        },
        "encoders": [],
        "confusions": [],
        "masked": [],
        "views": [],
    }
    pool = Pool()
    for index, run in enumerate(runs):
        found = encoders.classifier_confusion(run)
        if found:
            page["confusions"].append({"run": index, **found})
        if splits is None:
            continue
        reason = encoders.reason_for_none(run, runs)
        if reason:
            page["notes"].append(reason)
        else:
            _look_at_encoder(page, index, run, splits, pool)
    if splits is None:
        page["notes"].append("What needs the data sets was left out, as asked (--curves_only).")
    page["confusions"].sort(key=lambda confusion: confusion["run"])
    page["sequences"] = pool.sequences
    return page


def _look_at_encoder(
    page: Contents, index: int, run: Run, splits: encoders.Splits, pool: Pool
) -> None:
    embedded = encoders.embed(run, splits)
    test = embedded.test
    found = encoders.confusion(
        test.label, embedded.train.label[embedded.nearest], test.classes, "nearest neighbour"
    )
    page["confusions"].append({"run": index, **found})
    page["encoders"].append(
        {
            "run": index,
            "accuracy": float(embedded.right.mean()),
            "train": len(embedded.train),
            "test": len(test),
            "checkpoint": run.checkpoints[-1] if run.checkpoints else None,
            "map": encoders.class_map(embedded, pool),
            "gallery": encoders.gallery(embedded, pool),
        }
    )
    for part, made in (
        ("masked", masked.predictions(run, test, pool)),
        ("views", augmented.views(run, embedded.train, pool)),
    ):
        if made:
            page[part].append({"run": index, **made})
        elif part == "masked":
            page["notes"].append(f"{run.name}: it has no decoder that predicts masked joints.")


def _summary(run: Run) -> dict[str, Any]:
    """What the head of the page tells of a run."""
    lines = [line for part in run.metrics.values() for line in part]
    step = max((line["step"] for line in lines), default=0)
    rates = [line["samples_per_second"] for line in lines if "samples_per_second" in line]
    # A table writes what it has after every cell, and its task at the end.
    if run.results is not None and "task" in run.results:
        status = "finished"
    else:
        status = f"not finished, {f'step {step:,}' if step else 'no step logged yet'}"
    return {
        "name": run.name,
        "path": str(run.path),
        "task": run.config.task,
        "data": run.config.data.name,
        "stream": None if run.config.task in WITHOUT_DATA else run.config.views.stream,
        "seed": run.config.seed,
        "encoder": run.config.encoder,
        "status": status,
        "date": _date(run),
        "steps": step,
        "rate": sorted(rates)[len(rates) // 2] if rates else None,
        "facts": _facts(run, lines),
    }


def _facts(run: Run, lines: list[dict[str, Any]]) -> list[list[str]]:
    """The figures a reader looks for first: name and value, of what the run has."""
    found = run.results or next((line for line in lines[::-1] if "knn_accuracy" in line), {})
    keys = ("top1", "top5", "knn_accuracy", "ridge_accuracy", "map_action@0.5", "mpjpe")
    facts = []
    for key in keys:
        value = found.get(key)
        if isinstance(value, (int, float)):
            name, unit = results.heading(key).rstrip(")").split(" (")
            value = value if unit == "mm" else 100 * value
            facts.append([name, f"{value:.1f} {unit}"])
    return facts


def _date(run: Run) -> str:
    if run.starts:
        return str(run.starts[0].get("time"))[:10]
    newest = max((path.stat().st_mtime for path in _written(run.path)), default=0)
    return datetime.datetime.fromtimestamp(newest, datetime.UTC).strftime("%Y-%m-%d")


def _written(workdir: Path) -> list[Path]:
    names = (CONFIG_FILE, "metrics.jsonl", "results.json")
    return [path for name in names if (path := workdir / name).exists()]
