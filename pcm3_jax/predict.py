"""What a trained model says about skeleton recordings, or about frames as they arrive.

pcm3 predict FILE … [--model=MODEL] [--k=5] [--layout=LAYOUT] [--json] [--out=FILE]
pcm3 predict -      [--model=MODEL] [--k=5] [--layout=LAYOUT] [--json]
                    [--window=SECONDS] [--rate=30] [--every=5]

FILE: as for `pcm3 embed`.  MODEL: the name of a model that comes with the package (by default
irds, of nine gestures), a file from `pcm3 fit`, the workdir of a linear evaluation, finetuning,
detection or motion prediction, or a safetensors file of such a model.  Depending on the model, it
prints the most probable actions of each recording; a line for each action found in it, with its
first and last frame, counted from 0; or the number of poses predicted after its end.  --json prints
an object per recording instead.  --out also writes a table, .csv or .jsonl, or an .npz of arrays,
with predicted poses (N, frames, 2, 25, 3) in metres, normalised as the model's data set is.

With -, frames are read from standard input, one per line: x y z in metres of every joint of one or
more persons (75 numbers a person with Kinect v2's joints), separated by blanks or commas, NaN where
a joint is missing.  Every few frames (--every) the last seconds (--window) are classified, and
a line is printed: the label, once it has held and reaches the model's threshold, otherwise
"nothing", and the most probable actions.  This needs a classifier.  --rate: frames per second.
"""

from __future__ import annotations

from pathlib import Path

from pcm3_jax.inference import arguments
from pcm3_jax.runtime import commands


def run(argv: list[str]) -> None:
    """Runs the command.  Raises UserError if a file or frame cannot be read."""
    parser = arguments.parser("predict", __doc__, model="irds")
    parser.add_argument("--k", type=int, default=5, help="number of actions to print")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument("--out", type=Path, help=".csv, .jsonl or .npz file")
    parser.add_argument("--window", type=float, help="seconds to classify, of frames")
    parser.add_argument("--rate", type=float, default=30.0, help="frames per second, of frames")
    parser.add_argument("--every", type=int, default=5, help="frames from one label to the next")
    flags = parser.parse_args(argv)
    # Imports JAX, which --help does not need.
    from pcm3_jax.inference import predict

    predict.run(flags)


if __name__ == "__main__":
    commands.main(run)
