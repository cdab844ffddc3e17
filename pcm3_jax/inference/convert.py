"""Converts models to and from the authors' PyTorch program, and exports them.

`pcm3_jax.convert` is the command line.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from pcm3_jax.data import recordings
from pcm3_jax.data.normalization import normalization_of
from pcm3_jax.data.skeleton import COORDINATES, JOINTS, PERSONS, missing_joints, to_stream
from pcm3_jax.errors import UserError
from pcm3_jax.inference import model_file, torch_checkpoint
from pcm3_jax.inference.encoder import TrainedEncoder
from pcm3_jax.inference.model import Model
from pcm3_jax.inference.torch_layout import tensors_to_torch, weights_from_torch
from pcm3_jax.inference.validation import Sequence, read_sequences
from pcm3_jax.inference.weights import ModelWeights, Weights, join
from pcm3_jax.inference.whitening import fit_whitening
from pcm3_jax.methods.state import build_model, build_readout
from pcm3_jax.models.encoder import unit_length
from pcm3_jax.models.pcm3 import PCM3
from pcm3_jax.runtime.files import replaced, shown
from pcm3_jax.runtime.parallel import Devices

# Sequences that a whitening is fitted to.
_WHITENING = 4096


def stablehlo(model: ModelWeights) -> bytearray:
    """Exports the encoders in evaluation mode, weights included, for any number of sequences.

    Raises:
      UserError: the model's encoders take sequences of different lengths or normalisations.
    """
    inputs = {
        (weights.config.views.frames, normalization_of(weights.config.data.name))
        for weights in model.encoders.values()
    }
    if len(inputs) > 1:
        raise UserError(
            "The model's encoders differ in config.views.frames or in the normalisation of their "
            "data, so that they cannot share one input; export them one by one."
        )
    ((frames, _),) = inputs
    embeds = [_embedding(weights) for weights in model.encoders.values()]

    def embed(skeletons: jax.Array) -> jax.Array:
        features = [encoder(skeletons) for encoder in embeds]
        if len(features) == 1:
            return features[0]
        return jnp.concatenate([unit_length(part) for part in features], axis=-1)

    (rows,) = export.symbolic_shape("n")
    shape = (rows, frames, PERSONS, JOINTS, COORDINATES)
    with jax.default_matmul_precision("highest"):
        program = export.export(jax.jit(embed), platforms=("cpu", "cuda", "tpu"))
        return program(jax.ShapeDtypeStruct(shape, np.float32)).serialize()


def _embedding(weights: Weights) -> Callable[[jax.Array], Any]:
    """(N, T, 2, 25, 3) → (N, F) of one encoder."""
    network, stream = build_model(weights.config), weights.config.views.stream
    variables = weights.network()
    whitening, readout = variables.pop("whitening", None), build_readout(weights.config)

    def embed(skeletons: jax.Array) -> Any:
        views = to_stream(skeletons, ~missing_joints(skeletons), stream)
        features: Any = network.apply(variables, views, readout, method=PCM3.embed)
        if whitening is None:
            return features
        parts = features.reshape(features.shape[0], *whitening["mean"].shape) - whitening["mean"]
        white = jnp.einsum("npi,pij->npj", parts, whitening["matrix"])
        return unit_length(white).reshape(features.shape)

    return embed


def whitened(model: ModelWeights, data: str, data_dir: str) -> ModelWeights:
    """The model with its encoders' features whitened by statistics of a data set.

    Args:
      model: any model; a head would not fit the new features and is dropped.
      data: name of a built data set; up to `_WHITENING` sequences of its training split are used.
      data_dir: where it was built.

    Raises:
      UserError: the data set cannot be read, or is normalised otherwise than an encoder's.
    """
    Model(model).check_normalized(data)
    encoders = {}
    for name, weights in model.encoders.items():
        tree = {part: value for part, value in weights.tree.items() if part != "whitening"}
        plain = Weights(weights.config, tree)
        features = TrainedEncoder(plain).embed(_sequences(data, data_dir, plain))
        fitted = fit_whitening(features, build_readout(plain.config).parts)
        encoders[name] = Weights(weights.config, tree | {"whitening": fitted._asdict()})
    made = {name: model.provenance.get(name, {}) | {"whitening": data} for name in encoders}
    return ModelWeights(encoders, provenance=made, half=model.half)


def _sequences(data: str, data_dir: str, weights: Weights) -> list[Sequence]:
    """Sequences of a training split, evenly spread over it."""
    limit, devices = weights.config.data.max_frames, Devices(weights.config.mapping)
    split = recordings.read(data, data_dir, "train", limit, devices, resident=False)
    ids = np.linspace(0, len(split) - 1, min(len(split), _WHITENING)).astype(int)
    skeletons = [example["skeleton"] for example in split.examples(ids)]
    return read_sequences(skeletons, [missing_joints(skeleton) for skeleton in skeletons])


def run(flags: argparse.Namespace) -> None:
    """Runs `pcm3 convert`.  Raises UserError if a file cannot be read, written or converted."""
    if len(flags.sources) > 1 and flags.direction != "export":
        raise UserError(f"{flags.direction} takes one MODEL; only export joins several.")
    if flags.direction == "from_torch":
        (source,) = flags.sources
        tensors = torch_checkpoint.read(Path(source))
        model_file.save(flags.out, weights_from_torch(tensors, flags.stream, source))
    else:
        training = flags.direction == "to_torch"
        models = [model_file.load(source, training=training) for source in flags.sources]
        if flags.whiten is not None:
            models = [whitened(model, flags.whiten, flags.data_dir) for model in models]
        model = join(models) if len(models) > 1 or flags.whiten else models[0]
        if flags.direction == "export":
            model_file.save(flags.out, model)
        elif flags.direction == "stablehlo":
            content = stablehlo(model)
            with replaced(flags.out) as partial:
                partial.write_bytes(content)
        else:
            tensors = tensors_to_torch(model)
            with replaced(flags.out) as partial:
                torch_checkpoint.write(partial, tensors, model.only.config.optimizer.epochs)
    print(f"{shown(str(flags.out))}: {flags.out.stat().st_size / 1e6:.1f} MB")
