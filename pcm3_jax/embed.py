"""Features of skeleton recordings.

pcm3 embed FILE … [--model=MODEL] [--out=FEATURES.npz|.csv|.jsonl] [--layout=LAYOUT]

FILE: .skeleton (NTU RGB+D), .txt (PKU-MMD or IntelliRehabDS), .npy and .npz with skeletons
(frames, 25, 3) or (frames, persons, 25, 3) in metres; a folder or an archive of such files; or
DATA_SET:SPLIT, a split of a data set that is built in --data_dir.  With --layout
(docs/own_data.md), .npy and .npz files have the joints of that layout, NaN where one is missing.
MODEL: the name of a model that comes with the package (by default base), the workdir of a run,
a checkpoint, or a safetensors file.

A .csv gets one line per sequence, its name and F numbers; without --out, the same goes to standard
output.  A .jsonl gets one object {"name": …, "features": […]} per line, an .npz the arrays `names`
(N,) and `features` (N, F).
"""

from __future__ import annotations

from pathlib import Path

from pcm3_jax.inference import arguments
from pcm3_jax.runtime import commands


def run(argv: list[str]) -> None:
    """Runs the command.  Raises UserError if a file cannot be read or written."""
    parser = arguments.parser("embed", __doc__, model="base")
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args(argv)
    # Imports JAX, which --help does not need.
    from pcm3_jax.inference import embed

    embed.run(flags)


if __name__ == "__main__":
    commands.main(run)
