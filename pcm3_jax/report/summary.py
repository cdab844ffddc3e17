"""Prints one table of finished evaluations of frozen encoders, or of benchmarks.

python -m pcm3_jax.summary WORKDIR [WORKDIR …]

Runs that differ in their seed alone share a row: mean ± standard deviation over them.  Rows that
would read alike also name the settings in which they differ.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from pcm3_jax.errors import UserError
from pcm3_jax.runtime import commands
from pcm3_jax.runtime.files import shown
from pcm3_jax.train.checkpoint import CONFIG_FILE, FREE_KEYS, read_config

# Metrics shown, in per cent, and their columns.
COLUMNS = {
    "knn_accuracy": "1-NN (%)",
    "top1": "linear (%)",
    "ridge_accuracy": "ridge (%)",
}

# Settings in which runs of one row may differ, besides those that change no figure.  Runs that
# ``encoder`` and ``fusion.runs`` name are compared by their settings, not by their paths.
SEED_KEYS = ("seed", "task", "encoder", "fusion.runs")
# Of these tasks alone do the figures belong into one table.
EVALUATIONS = ("baseline", "retrieval", "linear_eval", "fusion")
ENCODERS = ("raw coordinates", "random encoder", "pretrained encoder", "fused encoders")


def encoder_and_stream(config: ConfigDict) -> tuple[str, str]:
    """What an evaluation measured."""
    if config.task == "baseline":
        return "raw coordinates", "joint"
    if config.task == "fusion":
        return "fused encoders", "several"
    return "pretrained encoder" if config.encoder else "random encoder", config.views.stream


def table(workdirs: list[Path]) -> str:
    """A Markdown table of the evaluations among the runs; runs without results are left out.

    Raises:
      UserError: none of them is a finished evaluation.
    """
    heading, *rows = grid(workdirs)
    if not rows:
        raise UserError(f"There is no finished evaluation in {', '.join(map(str, workdirs))}.")
    rule = ["---"] * 3 + ["---:"] * (len(heading) - 3)
    return "\n".join(f"| {' | '.join(line)} |" for line in (heading, rule, *rows))


def grid(workdirs: list[Path]) -> list[list[str]]:
    """Heading and rows of `table` as text; the heading alone where no evaluation has finished."""
    values: dict[tuple, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for workdir in workdirs:
        path = workdir / "results.json"
        if not path.exists():
            continue
        config, results = read_config(workdir), json.loads(path.read_text())
        if config.task not in EVALUATIONS:
            continue
        row = values[(config.data.name, *encoder_and_stream(config)), _settings(config)]
        for metric in COLUMNS:
            if metric in results:
                row[metric].append(100 * results[metric])
    lines = [["data set", "encoder", "stream", *COLUMNS.values(), "runs"]]
    for (names, settings), row in sorted(
        values.items(), key=lambda item: ENCODERS.index(item[0][0][1])
    ):
        alike = [other for other_names, other in values if other_names == names]
        differing = set().union(*alike) - set.intersection(*map(set, alike))
        named = ", ".join(sorted("=".join(pair) for pair in settings & differing))
        cells = [_cell(row[metric]) for metric in COLUMNS]
        stream = f"{names[2]} ({named})" if named else names[2]
        lines.append([*names[:2], stream, *cells, str(max(map(len, row.values()), default=0))])
    return lines


def _settings(config: ConfigDict) -> frozenset[tuple[str, str]]:
    """What tells a row's runs from others."""
    flat = flatten_dict(config.to_dict(), sep=".")
    found = {
        (key, json.dumps(value)) for key, value in flat.items() if key not in FREE_KEYS + SEED_KEYS
    }
    named = {f"run {number}": run for number, run in enumerate(config.fusion.runs, 1)}
    for prefix, path in {"encoder": config.encoder, **named}.items():
        run = Path(path)
        if path and run.parent.name == "checkpoints":
            found.add((f"{prefix}.step", run.name))
            run = run.parents[1]
        if path and (run / CONFIG_FILE).exists():
            of_run = read_config(run)
            found.add((f"{prefix}.task", json.dumps(of_run.task)))
            found |= {(f"{prefix}.{key}", value) for key, value in _settings(of_run)}
        elif run.suffix == ".safetensors":
            # An exported file, of whose training this tells nothing.
            found.add((prefix, json.dumps(path)))
    return frozenset(found)


def throughput(workdirs: list[Path]) -> str:
    """A Markdown table of the benchmarks among the workdirs; "" where there is none."""
    paths = [workdir / "benchmark.json" for workdir in workdirs]
    found = [json.loads(path.read_text()) for path in paths if path.exists()]
    # Comparisons with peers are no runs of ours alone.
    figures = [cell for cell in found if "step_seconds" in cell]
    lines = [
        "| device | type | devices | batch size | samples/s per device | step (s) | memory (GB) |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for cell in sorted(figures, key=lambda cell: (cell["devices"], cell["batch_size"])):
        lines.append(
            f"| {cell['device']} | {cell['dtype']} | {cell['devices']} | {cell['batch_size']} "
            f"| {cell['samples_per_second_per_device']:.4g} | {cell['step_seconds']:.4g} "
            f"| {cell['peak_memory_gb']:.3g} |"
        )
    return "\n".join(lines) if figures else ""


def _cell(numbers: list[float]) -> str:
    if not numbers:
        return "–"
    mean = f"{statistics.mean(numbers):.1f}"
    return f"{mean} ± {statistics.stdev(numbers):.1f}" if len(numbers) > 1 else mean


def run(argv: list[str]) -> None:
    """The command line.  Raises UserError where there is nothing to show."""
    parser = commands.Arguments(
        prog="python -m pcm3_jax.summary",
        description=__doc__,
        formatter_class=commands.AS_WRITTEN,
    )
    parser.add_argument("workdirs", nargs="+", type=Path, metavar="WORKDIR")
    workdirs = parser.parse_args(argv).workdirs
    for workdir in workdirs:
        if not workdir.exists():
            raise UserError(f"There is no {shown(str(workdir))}.")
    print(throughput(workdirs) or table(workdirs))
