"""Converts models to and from the authors' PyTorch program, and exports them.

pcm3 convert from_torch MODEL.pth.tar OUT.safetensors [--stream=joint]
pcm3 convert to_torch   MODEL OUT.pth.tar
pcm3 convert export     MODEL … OUT.safetensors [--whiten=DATA_SET --data_dir=data]
pcm3 convert stablehlo  MODEL OUT.bin

MODEL is the name of a model that comes with the package (base, …), the workdir of a run, one of its
checkpoints, or a safetensors file.  `from_torch` takes the encoder of --stream where a checkpoint
has several (encoder_q_motion, …), and says which tensors it leaves out.  `export` of several, for
instance of the runs of three streams, joins their encoders to one model with parameters in float16,
without decoders; --whiten whitens its features with statistics of a built data set's training
split.  `stablehlo` writes a program for `jax.export.deserialize(…).call` that maps normalised
skeletons (N, T, 2, 25, 3), T = config.views.frames, to features (N, F).  PyTorch is not needed.
"""

from __future__ import annotations

from pathlib import Path

from pcm3_jax.runtime import commands


def run(argv: list[str]) -> None:
    """Runs the command.  Raises UserError if a file cannot be read, written or converted."""
    parser = commands.parser("convert", __doc__)
    parser.add_argument("direction", choices=("from_torch", "to_torch", "export", "stablehlo"))
    parser.add_argument("sources", nargs="+", metavar="MODEL")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--stream", choices=("joint", "bone", "motion"), default="joint")
    parser.add_argument("--whiten", metavar="DATA_SET")
    parser.add_argument("--data_dir", default="data")
    flags = parser.parse_args(argv)
    # Imports JAX, which --help does not need.
    from pcm3_jax.inference import convert

    convert.run(flags)


if __name__ == "__main__":
    commands.main(run)
