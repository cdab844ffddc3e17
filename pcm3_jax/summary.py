"""Prints one table of finished evaluations, or of benchmarks.

pcm3 summary WORKDIR [WORKDIR …]

Runs that differ only in their seed share a row: mean ± standard deviation.  Rows with the same
data set, encoder and stream also name the settings in which they differ.
"""

from __future__ import annotations

from pathlib import Path

from pcm3_jax.runtime import commands


def run(argv: list[str]) -> None:
    """The command line.  Raises UserError if there is nothing to show."""
    parser = commands.parser("summary", __doc__)
    parser.add_argument("workdirs", nargs="+", type=Path, metavar="WORKDIR")
    flags = parser.parse_args(argv)
    # Imports JAX, which --help does not need.
    from pcm3_jax.report import summary

    summary.run(flags)


if __name__ == "__main__":
    commands.main(run)
