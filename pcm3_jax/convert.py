"""Reads the tensors of the authors' PyTorch program, by their names, into our layout.

Recurrent layers stack the two directions, which PyTorch keeps apart (suffix ``_reverse``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pcm3_jax.state import TrainState

_GRU_LEAVES = {
    "input_kernel": "weight_ih",
    "recurrent_kernel": "weight_hh",
    "input_bias": "bias_ih",
    "recurrent_bias": "bias_hh",
}
_PROMPTS = {
    "domain_intra": "base_prompt",
    "domain_mask": "mask_prompt",
    "domain_predict": "recons_prompt",
    "domain_inter": "mix_prompt",
    "task_contrast": "cl_prompt",
    "task_predict": "mp_prompt",
}


def params_from_torch(tensors: Mapping[str, np.ndarray], encoder: str = "encoder_q") -> Any:
    """Parameters of `PCM3` from PyTorch-named arrays.

    Args:
      tensors: arrays by PyTorch name.
      encoder: "encoder_q" for the whole network, "encoder_k" for the key encoder's part.
    """
    params = {
        "encoder": {
            "input_norm": _norm(tensors, f"{encoder}.input_norm"),
            "gru": _gru(tensors, f"{encoder}.encoder.gru", ("", "_reverse")),
        },
        "projector": {
            "inner": _dense(tensors, f"{encoder}.fc.0"),
            "outer": _dense(tensors, f"{encoder}.fc.2"),
        },
    }
    if encoder == "encoder_k":
        return params
    params["decoder"] = {
        "reduce": _dense(tensors, "linear.0"),
        "norm": _norm(tensors, "linear.1"),
        "mix": _dense(tensors, "linear.3"),
        "gru": _gru(tensors, "recons_decoder.decoder", ("",)),
        "reconstruct": _dense(tensors, "recons_decoder.reconstruction"),
    }
    params["prompts"] = {
        ours: tensors[theirs].reshape(-1) for ours, theirs in _PROMPTS.items() if theirs in tensors
    }
    return params


def batch_stats_from_torch(tensors: Mapping[str, np.ndarray], encoder: str = "encoder_q") -> Any:
    """Running statistics of `PCM3` from PyTorch-named arrays."""
    stats = {"encoder": {"input_norm": _running(tensors, f"{encoder}.input_norm")}}
    if encoder == "encoder_q":
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
    layers = {}
    while f"{name}.weight_ih_l{len(layers)}" in tensors:
        index = len(layers)
        layers[f"layer_{index}"] = {
            ours: np.stack([tensors[f"{name}.{theirs}_l{index}{suffix}"].T for suffix in suffixes])
            for ours, theirs in _GRU_LEAVES.items()
        }
    return layers
