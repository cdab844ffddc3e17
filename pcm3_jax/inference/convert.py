"""Models to and from the authors' PyTorch program, and out of this package.

python -m pcm3_jax.convert from_torch MODEL.pth.tar OUT.safetensors [--stream=joint]
python -m pcm3_jax.convert to_torch   MODEL OUT.pth.tar
python -m pcm3_jax.convert export     MODEL OUT.safetensors
python -m pcm3_jax.convert stablehlo  MODEL OUT.bin

MODEL is the workdir of a run, one of its checkpoints, or a safetensors file.  `stablehlo` writes
a program for `jax.export.deserialize(…).call`: normalised skeletons (N, T, 2, 25, 3) of T =
config.views.frames frames to features (N, 2H).  PyTorch is not needed.

Recurrent layers stack the two directions, which PyTorch keeps apart (suffix ``_reverse``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from pcm3_jax.data.skeleton import COORDINATES, JOINTS, PERSONS, STREAMS, missing_joints, to_stream
from pcm3_jax.errors import UserError
from pcm3_jax.inference import model_file, torch_checkpoint
from pcm3_jax.inference.torch_layout import (
    GRU_LEAVES,
    PROMPTS,
    config_of,
    renamed,
    tensors_to_torch,
)
from pcm3_jax.inference.weights import Weights, check
from pcm3_jax.methods.state import TrainState, build_model
from pcm3_jax.models.pcm3 import PCM3
from pcm3_jax.runtime import commands
from pcm3_jax.runtime.files import replaced, shown


def params_from_torch(tensors: Mapping[str, np.ndarray], encoder: str = "encoder_q") -> Any:
    """Parameters of `PCM3` from PyTorch-named arrays, as far as they are there.

    Args:
      tensors: arrays by PyTorch name.
      encoder: "encoder_q" for the whole network, "encoder_k" for the key encoder's part.
    """
    params = {
        "encoder": {
            "input_norm": _norm(tensors, f"{encoder}.input_norm"),
            "gru": _gru(tensors, f"{encoder}.encoder.gru", ("", "_reverse")),
        }
    }
    if f"{encoder}.fc.0.weight" in tensors:
        params["projector"] = {
            "inner": _dense(tensors, f"{encoder}.fc.0"),
            "outer": _dense(tensors, f"{encoder}.fc.2"),
        }
    if encoder == "encoder_k" or "linear.0.weight" not in tensors:
        return params
    params["decoder"] = {
        "reduce": _dense(tensors, "linear.0"),
        "norm": _norm(tensors, "linear.1"),
        "mix": _dense(tensors, "linear.3"),
        "gru": _gru(tensors, "recons_decoder.decoder", ("",)),
        "reconstruct": _dense(tensors, "recons_decoder.reconstruction"),
    }
    params["prompts"] = {
        ours: tensors[theirs].reshape(-1) for ours, theirs in PROMPTS.items() if theirs in tensors
    }
    return params


def batch_stats_from_torch(tensors: Mapping[str, np.ndarray], encoder: str = "encoder_q") -> Any:
    """Running statistics of `PCM3` from PyTorch-named arrays."""
    stats = {"encoder": {"input_norm": _running(tensors, f"{encoder}.input_norm")}}
    if encoder == "encoder_q" and "linear.1.running_mean" in tensors:
        stats["decoder"] = {"norm": _running(tensors, "linear.1")}
    return stats


def state_from_torch(tensors: Mapping[str, np.ndarray], template: TrainState) -> TrainState:
    """A training state from a whole PyTorch ``state_dict``; the optimizer starts afresh."""
    return template.replace(
        params=_like(template.params, params_from_torch(tensors)),
        batch_stats=batch_stats_from_torch(tensors),
        key_params=params_from_torch(tensors, "encoder_k"),
        key_batch_stats=batch_stats_from_torch(tensors, "encoder_k"),
        queue=np.ascontiguousarray(tensors["queue"].T),
        queue_pointer=np.int32(tensors["queue_ptr"].item()),
    )


def weights_from_torch(tensors: Mapping[str, np.ndarray], stream: str, what: str) -> Weights:
    """A model from the program's tensors: a whole network, an encoder, or a linear probe.

    Args:
      tensors: arrays by PyTorch name.
      stream: what the encoder was trained on, which the tensors do not tell.
      what: where they are from, for messages.

    Raises:
      UserError: they are another network's.
    """
    try:
        tensors, classifier = renamed(tensors)
        config = config_of(tensors, stream)
        tree = {
            "params": params_from_torch(tensors),
            "batch_stats": batch_stats_from_torch(tensors),
        }
        if "encoder_k.fc.0.weight" in tensors and "queue" in tensors:
            tree |= {
                "key_params": params_from_torch(tensors, "encoder_k"),
                "key_batch_stats": batch_stats_from_torch(tensors, "encoder_k"),
                "queue": tensors["queue"].T,
                "queue_pointer": np.int32(np.sum(tensors.get("queue_ptr", 0))),
            }
    except KeyError as error:
        raise UserError(f"{what} lacks the tensor {error}, which PCM³'s networks have.") from error
    except (ValueError, IndexError, AttributeError) as error:
        raise UserError(f"{what} has tensors of other shapes than PCM³'s: {error}.") from error
    if classifier:
        tree["classifier"] = classifier
    # Half precision is for storage only.
    tree = jax.tree.map(lambda x: x.astype("f4") if x.dtype.kind == "f" else np.array(x), tree)
    classes = tuple(f"class {i}" for i in range(len(classifier["bias"]))) if classifier else ()
    return check(Weights(config, tree, classes), what)


def stablehlo(weights: Weights) -> bytearray:
    """The encoder in evaluation mode, weights included, for any number of sequences."""
    model, stream = build_model(weights.config), weights.config.views.stream
    parts = ("params", "batch_stats")
    variables = {part: {"encoder": weights.tree[part]["encoder"]} for part in parts}

    def embed(skeletons: jax.Array) -> Any:
        return model.apply(
            variables, to_stream(skeletons, missing_joints(skeletons), stream), method=PCM3.embed
        )

    (rows,) = export.symbolic_shape("n")
    shape = (rows, weights.config.views.frames, PERSONS, JOINTS, COORDINATES)
    with jax.default_matmul_precision("highest"):
        program = export.export(jax.jit(embed), platforms=("cpu", "cuda", "tpu"))
        return program(jax.ShapeDtypeStruct(shape, np.float32)).serialize()


def _like(template, params):
    """Leaves out what the template lacks: the program keeps prompts that it does not use."""
    if not isinstance(template, Mapping):
        return params
    return {name: _like(template[name], params[name]) for name in template}


def _dense(tensors, name):
    return {"kernel": tensors[f"{name}.weight"].T, "bias": tensors[f"{name}.bias"]}


def _norm(tensors, name):
    return {"scale": tensors[f"{name}.weight"], "bias": tensors[f"{name}.bias"]}


def _running(tensors, name):
    return {"mean": tensors[f"{name}.running_mean"], "variance": tensors[f"{name}.running_var"]}


def _gru(tensors, name, suffixes):
    layers: dict[str, Any] = {}
    while f"{name}.weight_ih_l{len(layers)}" in tensors:
        index = len(layers)
        layers[f"layer_{index}"] = {
            ours: np.stack([tensors[f"{name}.{theirs}_l{index}{suffix}"].T for suffix in suffixes])
            for ours, theirs in GRU_LEAVES.items()
        }
    return layers


def run(argv: list[str]) -> None:
    """The command line.  Raises UserError for what cannot be read, written or converted."""
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
