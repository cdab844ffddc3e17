"""A recogniser of actions from a few labelled recordings.

pcm3 fit LABELS.csv [--model=MODEL] [--out=RECOGNISER.safetensors] [--layout=LAYOUT]
pcm3 fit DATA_SET:SPLIT [--data_dir=data] …    # of a data set that is built

LABELS.csv has the columns file, label, performer and split (docs/own_data.md); files, as for
`pcm3 embed`, are named from its folder.  All of them are fitted, whatever their split.  With
--layout (docs/own_data.md), .npy and .npz files have the joints of that layout, NaN where one is
missing.  MODEL: as for `pcm3 embed`.  RECOGNISER (by default recogniser.safetensors) holds the
encoders and a classifier; use it as --model of `pcm3 predict`, or with `pcm3_jax.load`.
"""

from __future__ import annotations

from pathlib import Path

from pcm3_jax.inference import arguments
from pcm3_jax.runtime import commands


def run(argv: list[str]) -> None:
    """Runs the command.  Raises UserError if a file cannot be read, fitted or written."""
    parser = arguments.parser("fit", __doc__, model="base", files="LABELS.csv")
    parser.add_argument("--out", type=Path, default=Path("recogniser.safetensors"))
    flags = parser.parse_args(argv)
    # Imports JAX, which --help does not need.
    from pcm3_jax.inference import fit

    fit.run(flags)


if __name__ == "__main__":
    commands.main(run)
