"""Writes one self-contained HTML page about runs.

pcm3 report WORKDIR … [--out=report.html] [--figures=DIR]

WORKDIR: the workdir of a run of any task, finished or not, or of a benchmark.  The page has
curves, result tables, confusion matrices, maps of the embeddings, nearest neighbours, masked
predictions, augmented views, throughput, and differences between the runs.  --figures also writes
the figures as PNG and GIF files, which needs pip install "pcm3_jax[report]" and Chromium.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pcm3_jax.errors import UserError
from pcm3_jax.runtime import commands
from pcm3_jax.runtime.files import shown


def run(argv: list[str]) -> None:
    """The command line.  Raises UserError if files cannot be read or written."""
    parser = commands.parser("report", __doc__)
    parser.add_argument("workdirs", nargs="+", metavar="WORKDIR", type=Path)
    parser.add_argument("--out", type=Path, default=Path("report.html"))
    parser.add_argument("--figures", type=Path, metavar="DIR")
    parser.add_argument("--data_dir", help="folder of the data sets, if it has moved")
    parser.add_argument(
        "--curves_only", action="store_true", help="leave out what needs data sets and encoders"
    )
    flags = parser.parse_args(argv)
    # Import JAX, which --help does not need.
    import jax

    from pcm3_jax.report import page
    from pcm3_jax.report.contents import contents
    from pcm3_jax.report.encoders import Splits
    from pcm3_jax.report.runs import read_runs

    if flags.out.is_dir():
        raise UserError(f"--out={shown(str(flags.out))} is a folder; name a file.")
    if flags.figures:
        try:
            from pcm3_jax.report import figures
        except ModuleNotFoundError as error:
            message = '--figures needs playwright and pillow; pip install "pcm3_jax[report]".'
            raise UserError(message) from error
    runs, benchmarks = read_runs(flags.workdirs)
    splits = None if flags.curves_only else Splits(flags.data_dir)
    with jax.default_matmul_precision("highest"):
        found = contents(runs, benchmarks, splits)
    for warning in found["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    page.write(flags.out, found)
    size = flags.out.stat().st_size / 1e6
    print(f"{shown(str(flags.out))}: {len(runs)} runs, {size:.1f} MB")
    if flags.figures:
        written = figures.write(flags.figures, flags.out)
        print(f"{shown(str(flags.figures))}: {len(written)} figures")


if __name__ == "__main__":
    commands.main(run)
