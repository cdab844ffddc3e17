"""Prints one table of finished evaluations, or of benchmarks.

`pcm3_jax.summary` is the command line.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pcm3_jax.errors import UserError
from pcm3_jax.report.results import compared, markdown, throughput
from pcm3_jax.report.runs import BENCHMARK_FILE, read_runs
from pcm3_jax.runtime.files import shown
from pcm3_jax.settings import require
from pcm3_jax.train.workdir import RESULTS_FILE


def table(workdirs: list[Path]) -> str:
    """A Markdown table of the benchmarks among the workdirs or, without any, of the evaluations.

    Raises:
      UserError: there are neither benchmarks nor finished evaluations.
    """
    finished = [w for w in workdirs if (w / BENCHMARK_FILE).exists() or (w / RESULTS_FILE).exists()]
    runs, benchmarks = read_runs(finished)
    for grid, texts in ((throughput(benchmarks.values()), 2), (compared(runs), 3)):
        if len(grid) > 1:
            return markdown(grid, texts)
    raise UserError(f"There is no finished evaluation in {', '.join(map(str, workdirs))}.")


def run(flags: argparse.Namespace) -> None:
    """Runs `pcm3 summary`.  Raises UserError if there is nothing to show."""
    for workdir in flags.workdirs:
        require(workdir.exists(), f"There is no {shown(str(workdir))}.")
    print(table(flags.workdirs))
