"""Recordings as animated skeletons, on one self-contained page.

pcm3 show FILE … [--layout=LAYOUT] [--model=MODEL] [--out=show.html] [--gif=FILE.gif]
pcm3 show DATA_SET[:SPLIT] [--data_dir=data] …    # of a data set that is built

FILE: as for `pcm3 embed`.  SPLIT: train or test (the default).  The page shows each recording
as stored and as networks see it, normalised, with the names of joints on hover, the measures of the
body, and what looks wrong with them.  With --model (as for `pcm3 predict`) it also shows the
model's labels over time, and the most similar ones of the recordings named and of the data set's
training split.  --gif also writes an animation of the first recording, which needs
pip install "pcm3_jax[report]".
"""

from __future__ import annotations

from pathlib import Path

from pcm3_jax.inference import arguments
from pcm3_jax.runtime import commands


def run(argv: list[str]) -> None:
    """The command line.  Raises UserError if files cannot be read or written."""
    parser = arguments.parser("show", __doc__, model="")
    parser.add_argument("--out", type=Path, default=Path("show.html"))
    parser.add_argument("--gif", type=Path, metavar="FILE.gif")
    flags = parser.parse_args(argv)
    # Imports JAX, which --help does not need.
    from pcm3_jax.report import show

    show.run(flags)


if __name__ == "__main__":
    commands.main(run)
