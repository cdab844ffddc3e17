"""The contents of the page, as JSON-compatible dictionaries and lists."""

from __future__ import annotations

import datetime
from typing import Any

import pcm3_jax
from pcm3_jax.report import augmented, comparison, curves, encoders, masked, results
from pcm3_jax.report.runs import Run
from pcm3_jax.report.sequences import SKELETON, Pool

Contents = dict[str, Any]
# Metrics per run at the head of the page.
_MOST_FACTS = 4


def contents(
    runs: list[Run],
    benchmarks: dict[str, dict[str, Any]],
    splits: encoders.Splits | None,
) -> Contents:
    """Collects what the report shows; ``notes`` says what was left out, and why.

    Args:
      runs: runs in the page's order.
      benchmarks: the benchmarks' figures by name.
      splits: reads the data sets; None leaves out all parts that need them.

    Raises:
      UserError: a data set, an encoder or a file of a run cannot be used.
    """
    now = datetime.datetime.now(datetime.UTC)
    names = ", ".join(run.name for run in runs)
    page: Contents = {
        "title": f"{names} – PCM³ report" if names else "PCM³ report",
        "created": now.strftime("%Y-%m-%d %H:%M UTC"),
        "version": pcm3_jax.__version__,
        "runs": [_summary(run) for run in runs],
        "warnings": comparison.warnings(runs),
        "notes": [],
        "charts": curves.charts(runs, benchmarks),
        "tables": results.tables(runs, benchmarks),
        "settings": comparison.settings(runs),
        "provenance": comparison.provenance(runs),
        "skeleton": SKELETON,
        "encoders": [],
        "confusions": [],
        "masked": [],
        "views": [],
    }
    if splits is None:
        page["notes"].append("--curves_only left out all parts that need data sets and encoders.")
    pool = Pool()
    shown_under = {} if splits is None else encoders.shown_under(runs)
    for index, run in enumerate(runs):
        if found := encoders.classifier_confusion(run):
            page["confusions"].append({"run": index, **found})
        if splits is None:
            continue
        if reason := encoders.reason_for_none(run):
            page["notes"].append(reason)
        elif (other := shown_under[run.name]) != run.name:
            page["notes"].append(f"{run.name}: its encoder is shown under {other}.")
        else:
            _add_encoder(page, index, run, splits, pool)
    page["sequences"] = pool.sequences
    return page


def _add_encoder(page: Contents, index: int, run: Run, splits: encoders.Splits, pool: Pool) -> None:
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
    if predicted := masked.predictions(run, test, pool):
        page["masked"].append({"run": index, **predicted})
    else:
        page["notes"].append(
            f"{run.name}: no masked prediction, since it trains no decoder for it."
        )
    if drawn := augmented.views(run, embedded.train, pool):
        page["views"].append({"run": index, **drawn})


def _encoder(run: Run) -> str | None:
    """What the run did with the model in ``config.encoder``; None without one."""
    named = run.config.encoder
    return f"{'starts from' if run.task.pretrains else 'encoder of'} {named}" if named else None


def _summary(run: Run) -> dict[str, Any]:
    """A run's entry at the head of the page."""
    step = max((line["step"] for line in run.logged), default=0)
    # A table writes its results after every cell, and "task" only at the end.
    under_way = f"not finished, {f'step {step:,}' if step else 'no step logged yet'}"
    return {
        "name": run.name,
        "path": str(run.path),
        "task": run.config.task,
        "data": run.config.data.name,
        "stream": run.config.views.stream if run.task.reads_data else None,
        "seed": run.config.seed,
        "encoder": _encoder(run),
        "status": "finished" if "task" in run.results else under_way,
        "date": str(run.starts[0].get("time"))[:10] if run.starts else "no date",
        "steps": step,
        "facts": _facts(run),
    }


def _facts(run: Run) -> list[list[str]]:
    """The run's main metrics: [name, value] of its results or else of its last logged line."""
    for figures in (run.results, *run.logged[::-1]):
        facts = [
            [metric.name, f"{metric.text(figures[key])} {metric.unit}"]
            for key, metric in results.metrics_of(run, figures).items()
            if metric.unit and metric.better
        ]
        if facts:
            return facts[:_MOST_FACTS]
    return []
