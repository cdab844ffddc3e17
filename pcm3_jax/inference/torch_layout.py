"""The names and layouts of the authors' PyTorch networks, to and from those of this package.

Recurrent layers stack the two directions here; PyTorch keeps them apart (suffix ``_reverse``).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from pcm3_jax.data.skeleton import FEATURES
from pcm3_jax.errors import UserError, note
from pcm3_jax.inference.torch_names import find_network, summary
from pcm3_jax.inference.weights import ModelWeights, Weights, check
from pcm3_jax.methods.state import TrainState, key_part
from pcm3_jax.models.encoder import unit_length
from pcm3_jax.settings import Config, Stream

_DIRECTIONS = ["", "_reverse"]
_DECODER_GRU = "recons_decoder.decoder"
_DENSE = {"kernel": "weight", "bias": "bias"}
_NORM = {"scale": "weight", "bias": "bias"}
_STATISTICS = {"mean": "running_mean", "variance": "running_var"}
_GRU = {
    "input_kernel": "weight_ih",
    "recurrent_kernel": "weight_hh",
    "input_bias": "bias_ih",
    "recurrent_bias": "bias_hh",
}
# (our module's path, {our leaf: PyTorch's leaf}, PyTorch's module with {} for encoder_q or _k).
_MODULES = (
    ("params/encoder/input_norm", _NORM, "{}.input_norm"),
    ("batch_stats/encoder/input_norm", _STATISTICS, "{}.input_norm"),
    ("params/encoder/gru", _GRU, "{}.encoder.gru"),
    ("params/projector/inner", _DENSE, "{}.fc.0"),
    ("params/projector/outer", _DENSE, "{}.fc.2"),
    ("params/decoder/reduce", _DENSE, "linear.0"),
    ("params/decoder/norm", _NORM, "linear.1"),
    ("batch_stats/decoder/norm", _STATISTICS, "linear.1"),
    ("params/decoder/mix", _DENSE, "linear.3"),
    ("params/decoder/gru", _GRU, _DECODER_GRU),
    ("params/decoder/reconstruct", _DENSE, "recons_decoder.reconstruction"),
)
_PROMPTS = {
    "domain_intra": "base_prompt",
    "domain_mask": "mask_prompt",
    "domain_predict": "recons_prompt",
    "domain_inter": "mix_prompt",
    "task_contrast": "cl_prompt",
    "task_predict": "mp_prompt",
}
Tensors = Mapping[str, np.ndarray]
# Names of a linear probe's single layer, with or without the encoder's prefix.
_CLASSIFIERS = ("fc", "linear", "classifier", "head")


def config_of(tensors: Tensors, stream: Stream) -> Config:
    """The default configuration with the sizes of the tensors.

    Raises:
      KeyError: a tensor is missing.
      IndexError: a tensor has the wrong number of axes.
    """
    config = Config()
    config.views.stream = stream
    model, method = config.model, config.method
    gru = "encoder_q.encoder.gru"
    model.hidden = tensors[f"{gru}.weight_hh_l0"].shape[1]
    model.layers = _layers(tensors, gru)
    if "encoder_q.fc.2.weight" in tensors:
        model.projection = tensors["encoder_q.fc.2.weight"].shape[0]
    if "linear.0.weight" in tensors:
        model.decoder_hidden = tensors["linear.0.weight"].shape[0]
        model.decoder_layers = _layers(tensors, _DECODER_GRU)
    method.domain_prompts = "base_prompt" in tensors
    method.task_prompts = "cl_prompt" in tensors
    # Prompts must be narrower than hidden; a small encoder has no room for the default width.
    model.prompt_width = min(model.prompt_width, model.hidden - 1)
    if method.task_prompts:
        model.prompt_width = tensors["cl_prompt"].size // 2
    if "queue" in tensors:
        method.queue_size = tensors["queue"].shape[1]
    return config


def params_from_torch(tensors: Tensors, encoder: str = "encoder_q") -> Any:
    """Parameters of those parts of `PCM3` that PyTorch-named arrays contain.

    Args:
      tensors: arrays by PyTorch name.
      encoder: "encoder_q" for the whole network, "encoder_k" for the key encoder's part.

    Raises:
      KeyError: a part lacks a tensor.
    """
    params = _from_torch(tensors, encoder, "params")
    if "decoder" in params:
        params["prompts"] = {
            ours: tensors[name].reshape(-1) for ours, name in _PROMPTS.items() if name in tensors
        }
    return params


def batch_stats_from_torch(tensors: Tensors, encoder: str = "encoder_q") -> Any:
    """Running statistics of `PCM3` from PyTorch-named arrays.

    Raises:
      KeyError: a part lacks a tensor.
    """
    return _from_torch(tensors, encoder, "batch_stats")


def _from_torch(tensors: Tensors, encoder: str, collection: str) -> Any:
    flat = {}
    for path, names in _present(tensors, encoder).items():
        if path[0] == collection:
            arrays = [tensors[name].T for name in names]
            flat[path] = np.stack(arrays) if "gru" in path else arrays[0]
    return unflatten_dict(flat)[collection]


def _present(tensors: Tensors, encoder: str) -> dict[tuple[str, ...], list[str]]:
    """Those of `_places` that belong to a part of which the tensors have the first."""
    parts = {"encoder"}
    if f"{encoder}.fc.0.weight" in tensors:
        parts.add("projector")
    if encoder == "encoder_q" and "linear.0.weight" in tensors:
        parts.add("decoder")
    layers = (_layers(tensors, gru) for gru in (f"{encoder}.encoder.gru", _DECODER_GRU))
    return {path: names for path, names in _places(encoder, *layers) if path[1] in parts}


def _places(
    encoder: str, layers: int, decoder_layers: int
) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Our path and PyTorch's names of each array; a recurrent one has a name for each direction.

    PyTorch's arrays are transposed.
    """
    for module, leaves, theirs in _MODULES:
        path, name = tuple(module.split("/")), theirs.format(encoder)
        if leaves is not _GRU:
            yield from (((*path, ours), [f"{name}.{leaf}"]) for ours, leaf in leaves.items())
            continue
        count, directions = (decoder_layers, [""]) if "decoder" in path else (layers, _DIRECTIONS)
        for index, (ours, leaf) in itertools.product(range(count), leaves.items()):
            names = [f"{name}.{leaf}_l{index}{direction}" for direction in directions]
            yield (*path, f"layer_{index}", ours), names


def _layers(tensors: Tensors, gru: str) -> int:
    return next(i for i in itertools.count() if f"{gru}.weight_ih_l{i}" not in tensors)


def state_from_torch(tensors: Tensors, template: TrainState) -> TrainState:
    """A training state from a whole PyTorch ``state_dict``, with the template's optimizer state."""
    return template.replace(
        params=_like(template.params, params_from_torch(tensors)),
        batch_stats=batch_stats_from_torch(tensors),
        key_params=params_from_torch(tensors, "encoder_k"),
        key_batch_stats=batch_stats_from_torch(tensors, "encoder_k"),
        queue=np.ascontiguousarray(tensors["queue"].T),
        queue_pointer=np.int32(tensors["queue_ptr"].item()),
    )


def weights_from_torch(tensors: Tensors, stream: Stream, what: str) -> ModelWeights:
    """A model from the program's tensors: a whole network, an encoder, or a linear probe.

    Prints notes of the tensors that it leaves out, and of how classes are numbered.

    Args:
      tensors: arrays by PyTorch name, as `torch_names.find_network` takes them.
      stream: input stream of the encoder.  Encoders of several streams are told apart by their
        names; the tensors of a single one do not record it.
      what: name of the tensors' file, for messages.

    Raises:
      UserError: the tensors are not those of a PCM³ network.
    """
    names = find_network(tensors, stream, what)
    network = {ours: tensors[theirs] for ours, theirs in names.items()}
    try:
        classifier = _classifier(network)
        config, tree = config_of(network, stream), _tree(network)
    except KeyError as error:
        raise UserError(f"{what} lacks the tensor {error}, which PCM³'s networks have.") from error
    except (ValueError, IndexError, AttributeError) as error:
        raise UserError(f"{what} has tensors of other shapes than PCM³'s: {error}.") from error
    heads = {"classifier": _head(network, classifier)} if classifier else {}
    classes = len(heads["classifier"]["bias"]) if classifier else 0
    # Half precision is for storage only.
    tree, heads = jax.tree.map(
        lambda x: x.astype("f4") if x.dtype.kind == "f" else np.array(x), (tree, heads)
    )
    numbered = tuple(f"class {number} (from 0)" for number in range(classes))
    model = check(ModelWeights.of(Weights(config, tree), heads=heads, classes=numbered), what)
    left_out = _left_out(tensors, {names[name] for name in _used(network, classifier)})
    if left_out:
        note(f"{what}: left out {left_out}.")
    if classes:
        note(
            f"{what}: its {classes} classes have no names; their numbers count from 0, so that "
            "class 0 is A001 of NTU RGB+D."
        )
    return model


def _tree(network: Tensors) -> dict[str, Any]:
    tree = {
        "params": params_from_torch(network),
        "batch_stats": batch_stats_from_torch(network),
    }
    if _resumable(network):
        tree |= {
            "key_params": params_from_torch(network, "encoder_k"),
            "key_batch_stats": batch_stats_from_torch(network, "encoder_k"),
            "queue": network["queue"].T,
            "queue_pointer": np.int32(np.sum(network.get("queue_ptr", 0))),
        }
    return tree


def _classifier(network: Tensors) -> str | None:
    """Name of a linear probe's layer (classes, 2H), whose bias is optional."""
    if "encoder_k.encoder.gru.weight_ih_l0" in network:
        return None  # A pretraining: a single layer is its projection.
    width = 2 * network["encoder_q.encoder.gru.weight_hh_l0"].shape[1]
    for name in _CLASSIFIERS:
        for layer in (f"encoder_q.{name}", name):
            weight, bias = network.get(f"{layer}.weight"), network.get(f"{layer}.bias")
            if weight is None or weight.shape[1:] != (width,):
                continue
            if bias is None or bias.shape == weight.shape[:1]:
                return layer
    return None


def _head(network: Tensors, layer: str) -> dict[str, np.ndarray]:
    weight = network[f"{layer}.weight"]
    bias = network.get(f"{layer}.bias", np.zeros(len(weight), weight.dtype))
    return {"kernel": weight.T, "bias": bias}


def _resumable(network: Tensors) -> bool:
    """Whether the network has the parts with which a pretraining goes on."""
    return "encoder_k.fc.0.weight" in network and "queue" in network


def _used(network: Tensors, classifier: str | None) -> set[str]:
    """The names of the network's tensors that a model takes."""
    resumable = _resumable(network)
    encoders = ("encoder_q", "encoder_k") if resumable else ("encoder_q",)
    places = [_present(network, encoder).values() for encoder in encoders]
    used = {name for lists in places for names in lists for name in names}
    used |= {f"{classifier}.weight", f"{classifier}.bias"}
    used |= {"queue", "queue_ptr"} if resumable else set()
    used |= set(_PROMPTS.values()) if "linear.0.weight" in network else set()
    return used & network.keys()


def _left_out(tensors: Tensors, used: set[str]) -> str:
    # The number of batches is of no use with a fixed momentum.
    unused = (name for name in tensors if not name.endswith("num_batches_tracked"))
    return summary((name for name in unused if name not in used), used)


def tensors_to_torch(model: ModelWeights) -> dict[str, np.ndarray]:
    """A model's arrays by PyTorch name, for every tensor of the authors' program.

    Missing parts get initial values: the key encoder is a copy of the query encoder, the queue is
    random unit vectors, and prompts are zero.

    Raises:
      UserError: the model is only an encoder, or several.
    """
    weights = model.only
    tree = weights.tree
    params, stats = tree["params"], tree["batch_stats"]
    missing = {"projector", "decoder"} - params.keys()
    if missing:
        raise UserError(
            f"The model has no {' and no '.join(sorted(missing))}, but the authors' program loads "
            "whole networks only: convert one from a pretraining run."
        )
    sizes = weights.config.model
    prompts = {ours: np.zeros(2 * sizes.prompt_width) for ours in _PROMPTS}
    prompts |= {ours: np.zeros(FEATURES) for ours in _PROMPTS if ours.startswith("domain")}
    prompts |= params.get("prompts", {})
    shapes = {"domain": (1, 1, -1), "task": (1, -1)}
    named = {
        theirs: np.reshape(prompts[ours], shapes[ours.partition("_")[0]])
        for ours, theirs in _PROMPTS.items()
    }
    queue = tree.get("queue")
    if queue is None:
        shape = (weights.config.method.queue_size, sizes.projection)
        queue = unit_length(jax.random.normal(jax.random.key(weights.config.seed), shape))
    named["queue"] = np.asarray(queue).T
    named["queue_ptr"] = np.reshape(tree.get("queue_pointer", 0), 1).astype(np.int64)
    keys = tree.get("key_params", key_part(params)), tree.get("key_batch_stats", stats)
    for encoder, (p, s) in (("encoder_q", (params, stats)), ("encoder_k", keys)):
        flat = flatten_dict({"params": p, "batch_stats": s})
        for path, names in _places(encoder, sizes.layers, sizes.decoder_layers):
            if path in flat:
                arrays = flat[path] if "gru" in path else [flat[path]]
                named |= {name: array.T for name, array in zip(names, arrays, strict=True)}
            if path in flat and path[-1] == "mean":
                # Unused with a fixed momentum, but ``strict=True`` requires it.
                count = names[0].replace("running_mean", "num_batches_tracked")
                named[count] = np.zeros((), np.int64)
    return {k: v if v.dtype == np.int64 else v.astype("f4") for k, v in named.items()}


def _like(template: Any, params: Any) -> Any:
    """Drops parameters that the template lacks, such as unused prompts of the authors' program."""
    if not isinstance(template, Mapping):
        return params
    return {name: _like(template[name], params[name]) for name in template}
