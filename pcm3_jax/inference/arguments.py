"""The command line of commands that read recordings; needs no JAX, so that --help is fast."""

from __future__ import annotations

from pcm3_jax.data.joint_layouts import LAYOUTS
from pcm3_jax.runtime import commands


def parser(
    command: str, description: str | None, *, model: str, files: str = ""
) -> commands.Arguments:
    """A parser with the arguments that `pcm3 embed`, `predict`, `fit` and `show` share.

    Args:
      command, description: for --help.
      model: the one to use without --model.
      files: what to call the only file; by default there may be several.
    """
    made = commands.parser(command, description)
    made.add_argument("files", nargs=None if files else "+", metavar=files or "FILE")
    made.add_argument("--model", default=model)
    made.add_argument(
        "--normalized", action="store_true", help="the skeletons are normalised already"
    )
    made.add_argument("--layout", help=f"joints of the files: {', '.join(LAYOUTS)}, or a .toml")
    made.add_argument(
        "--persons",
        type=int,
        help="persons that count, 1 or 2; by default as the model was trained",
    )
    made.add_argument("--data_dir", default="data", help="of DATA_SET")
    return made
