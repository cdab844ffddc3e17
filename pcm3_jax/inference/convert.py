"""Converts models to and from the authors' PyTorch program, and exports them.

python -m pcm3_jax.convert from_torch MODEL.pth.tar OUT.safetensors [--stream=joint]
python -m pcm3_jax.convert to_torch   MODEL OUT.pth.tar
python -m pcm3_jax.convert export     MODEL OUT.safetensors
python -m pcm3_jax.convert stablehlo  MODEL OUT.bin

MODEL is the workdir of a run, one of its checkpoints, or a safetensors file.  `stablehlo` writes
a program for `jax.export.deserialize(…).call` that maps normalised skeletons (N, T, 2, 25, 3), T =
config.views.frames, to features (N, 2H).  PyTorch is not needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from pcm3_jax.data.skeleton import COORDINATES, JOINTS, PERSONS, STREAMS, missing_joints, to_stream
from pcm3_jax.inference import model_file, torch_checkpoint
from pcm3_jax.inference.torch_layout import tensors_to_torch, weights_from_torch
from pcm3_jax.inference.weights import Weights
from pcm3_jax.methods.state import build_model
from pcm3_jax.models.pcm3 import PCM3
from pcm3_jax.runtime import commands
from pcm3_jax.runtime.files import replaced, shown


def stablehlo(weights: Weights) -> bytearray:
    """Exports the encoder in evaluation mode, weights included, for any number of sequences."""
    model, stream = build_model(weights.config), weights.config.views.stream
    parts = ("params", "batch_stats")
    variables = {part: {"encoder": weights.tree[part]["encoder"]} for part in parts}

    def embed(skeletons: jax.Array) -> Any:
        return model.apply(
            variables, to_stream(skeletons, ~missing_joints(skeletons), stream), method=PCM3.embed
        )

    (rows,) = export.symbolic_shape("n")
    shape = (rows, weights.config.views.frames, PERSONS, JOINTS, COORDINATES)
    with jax.default_matmul_precision("highest"):
        program = export.export(jax.jit(embed), platforms=("cpu", "cuda", "tpu"))
        return program(jax.ShapeDtypeStruct(shape, np.float32)).serialize()


def run(argv: list[str]) -> None:
    """Runs the command.  Raises UserError if a file cannot be read, written or converted."""
    parser = commands.Arguments(
        prog="python -m pcm3_jax.convert",
        description=__doc__,
        formatter_class=commands.AS_WRITTEN,
    )
    parser.add_argument("direction", choices=("from_torch", "to_torch", "export", "stablehlo"))
    parser.add_argument("source", type=Path, metavar="MODEL")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--stream", choices=tuple(STREAMS), default="joint")
    flags = parser.parse_args(argv)
    if flags.direction == "from_torch":
        tensors = torch_checkpoint.read(flags.source)
        weights = weights_from_torch(tensors, flags.stream, str(flags.source))
        model_file.save(flags.out, weights)
    else:
        weights = model_file.load(flags.source, training=flags.direction == "to_torch")
        if flags.direction == "export":
            model_file.save(flags.out, weights)
        elif flags.direction == "stablehlo":
            content = stablehlo(weights)
            with replaced(flags.out) as partial:
                partial.write_bytes(content)
        else:
            tensors = tensors_to_torch(weights)
            with replaced(flags.out) as partial:
                torch_checkpoint.write(partial, tensors, weights.config.optimizer.epochs)
    print(f"{shown(str(flags.out))}: {flags.out.stat().st_size / 1e6:.1f} MB")
