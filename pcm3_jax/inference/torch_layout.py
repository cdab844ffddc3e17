"""The authors' names for their networks' tensors, and which network a set of tensors is."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np
from ml_collections import ConfigDict

from pcm3_jax.config import default_config
from pcm3_jax.data.skeleton import FEATURES
from pcm3_jax.errors import UserError
from pcm3_jax.inference.weights import Weights
from pcm3_jax.methods.state import key_part
from pcm3_jax.models.encoder import unit_length

GRU_LEAVES = {
    "input_kernel": "weight_ih",
    "recurrent_kernel": "weight_hh",
    "input_bias": "bias_ih",
    "recurrent_bias": "bias_hh",
}
PROMPTS = {
    "domain_intra": "base_prompt",
    "domain_mask": "mask_prompt",
    "domain_predict": "recons_prompt",
    "domain_inter": "mix_prompt",
    "task_contrast": "cl_prompt",
    "task_predict": "mp_prompt",
}
Tensors = Mapping[str, np.ndarray]
_FIRST = "encoder.gru.weight_ih_l0"
# What linear evaluation calls its one layer, with or without the encoder's prefix.
_CLASSIFIERS = ("fc", "linear", "classifier", "head")


def renamed(tensors: Tensors) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray] | None]:
    """The tensors under the names of pretraining, and the classifier of a linear probe.

    An encoder that was saved alone, under whatever prefix, becomes ``encoder_q``.

    Returns:
      The tensors, and {"kernel": (2H, classes), "bias": (classes,)} or None.

    Raises:
      KeyError: there is no encoder.
    """
    prefixes = [name.removesuffix(_FIRST) for name in tensors if name.endswith(_FIRST)]
    prefixes = [prefix for prefix in prefixes if prefix != "encoder_k."]
    prefix = "encoder_q." if "encoder_q." in prefixes else next(iter(prefixes), None)
    if prefix is None:
        raise KeyError(f"encoder_q.{_FIRST}")
    named = {
        f"encoder_q.{name.removeprefix(prefix)}" if name.startswith(prefix) else name: array
        for name, array in tensors.items()
    }
    width = 2 * named["encoder_q.encoder.gru.weight_hh_l0"].shape[1]
    for layer in (f"encoder_q.{name}" for name in _CLASSIFIERS):
        # Without a prefix of its own the encoder's was given to all.
        for place in (layer, layer.removeprefix("encoder_q.")):
            weight, bias = named.get(f"{place}.weight"), named.get(f"{place}.bias")
            if weight is not None and bias is not None and weight.shape == (len(bias), width):
                return named, {"kernel": weight.T, "bias": bias}
    return named, None


def config_of(tensors: Tensors, stream: str) -> ConfigDict:
    """The default configuration with the sizes of `renamed` tensors.

    Raises:
      KeyError: a tensor is missing.
      IndexError: one has another number of axes.
    """
    config = default_config()
    config.views.stream = stream
    model, method = config.model, config.method
    gru = "encoder_q.encoder.gru"
    model.hidden = tensors[f"{gru}.weight_hh_l0"].shape[1]
    model.layers = _layers(tensors, gru)
    if "encoder_q.fc.2.weight" in tensors:
        model.projection = tensors["encoder_q.fc.2.weight"].shape[0]
    if "linear.0.weight" in tensors:
        model.decoder_hidden = tensors["linear.0.weight"].shape[0]
        model.decoder_layers = _layers(tensors, "recons_decoder.decoder")
    method.domain_prompts = "base_prompt" in tensors
    method.task_prompts = "cl_prompt" in tensors
    # Offsets are drawn below hidden: an encoder alone need not have room for the default.
    model.prompt_width = min(model.prompt_width, model.hidden - 1)
    if method.task_prompts:
        model.prompt_width = tensors["cl_prompt"].size // 2
    if "queue" in tensors:
        method.queue_size = tensors["queue"].shape[1]
    return config


def tensors_to_torch(weights: Weights) -> dict[str, np.ndarray]:
    """A model's arrays by PyTorch name, as many as the authors' program has in all.

    What the model lacks is as before the first step: the key encoder a copy of the query's, the
    queue random unit vectors, prompts zero.

    Raises:
      UserError: the model is only an encoder.
    """
    tree = weights.tree
    params, stats = tree["params"], tree["batch_stats"]
    missing = {"projector", "decoder"} - params.keys()
    if missing:
        raise UserError(
            f"The model has no {' and no '.join(sorted(missing))}, but the authors' program loads "
            "whole networks only: convert one from a pretraining run."
        )
    model = weights.config.model
    prompts = {ours: np.zeros(2 * model.prompt_width) for ours in PROMPTS}
    prompts |= {ours: np.zeros(FEATURES) for ours in PROMPTS if ours.startswith("domain")}
    prompts |= params.get("prompts", {})
    shapes = {"domain": (1, 1, -1), "task": (1, -1)}
    named = {
        theirs: np.reshape(prompts[ours], shapes[ours.partition("_")[0]])
        for ours, theirs in PROMPTS.items()
    }
    queue = tree.get("queue")
    if queue is None:
        shape = (weights.config.method.queue_size, model.projection)
        queue = unit_length(jax.random.normal(jax.random.key(weights.config.seed), shape))
    named["queue"] = np.asarray(queue).T
    named["queue_ptr"] = np.reshape(tree.get("queue_pointer", 0), 1).astype(np.int64)
    keys = tree.get("key_params", key_part(params)), tree.get("key_batch_stats", stats)
    for encoder, (p, s) in (("encoder_q", (params, stats)), ("encoder_k", keys)):
        named |= _gru_out(p["encoder"]["gru"], f"{encoder}.encoder.gru", ("", "_reverse"))
        named |= _dense_out(p["projector"]["inner"], f"{encoder}.fc.0")
        named |= _dense_out(p["projector"]["outer"], f"{encoder}.fc.2")
        name = f"{encoder}.input_norm"
        named |= _norm_out(p["encoder"]["input_norm"], s["encoder"]["input_norm"], name)
    decoder = params["decoder"]
    named |= _dense_out(decoder["reduce"], "linear.0")
    named |= _norm_out(decoder["norm"], stats["decoder"]["norm"], "linear.1")
    named |= _dense_out(decoder["mix"], "linear.3")
    named |= _gru_out(decoder["gru"], "recons_decoder.decoder", ("",))
    named |= _dense_out(decoder["reconstruct"], "recons_decoder.reconstruction")
    return {k: v if v.dtype == np.int64 else v.astype("f4") for k, v in named.items()}


def _layers(tensors: Tensors, name: str) -> int:
    count = 0
    while f"{name}.weight_ih_l{count}" in tensors:
        count += 1
    return count


def _dense_out(params, name):
    return {f"{name}.weight": params["kernel"].T, f"{name}.bias": params["bias"]}


def _norm_out(params, stats, name):
    return {
        f"{name}.weight": params["scale"],
        f"{name}.bias": params["bias"],
        f"{name}.running_mean": stats["mean"],
        f"{name}.running_var": stats["variance"],
        # Of no use with a fixed momentum, but `strict` asks for it.
        f"{name}.num_batches_tracked": np.zeros((), np.int64),
    }


def _gru_out(layers, name, suffixes):
    return {
        f"{name}.{theirs}_l{index}{suffix}": layers[f"layer_{index}"][ours][direction].T
        for index in range(len(layers))
        for direction, suffix in enumerate(suffixes)
        for ours, theirs in GRU_LEAVES.items()
    }
