"""What the devices exchange in one pretraining step, and what that costs on many of them."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from pcm3_jax.data.skeleton import FEATURES
from pcm3_jax.tasks.pretrain import abstract_state

FLOAT = 4


class Collective(NamedTuple):
    """One exchange.

    Attributes:
      kind: "all-reduce", "all-gather" or "reduce-scatter".
      bytes: of the result of an all-gather, and of one device's operand otherwise.
    """

    kind: str
    bytes: int


def collectives(config: ConfigDict, batch_size: int, devices: int) -> list[Collective]:
    """Every exchange of one step: gradients and metrics, BatchNorm's moments, keys.

    A gather through which a gradient flows has a reduce-scatter in the backward pass.
    """
    model, method = config.model, config.method
    predicted = "predict" in method.positives
    first_pass = {*method.positives} - {"predict"}
    first_pass |= {"mask"} if method.masked_prediction else set()
    prompted = method.domain_prompts and method.prompt_placement == "before_norm"
    decoder_passes = method.masked_prediction * (1 + (predicted and method.contrast_guides_decoder))
    # (features, passes, whether a gradient flows), for every BatchNorm of the step.
    norms = [
        (FEATURES, len(first_pass), prompted),
        (model.decoder_hidden, decoder_passes, True),
        # Without guidance and prompts nothing before the predicted view's norm can learn.
        (FEATURES, int(predicted), prompted or method.contrast_guides_decoder),
        (FEATURES, int(bool(method.positives)), False),
    ]
    found = []
    for features, passes, learns in norms:
        if passes:
            moments = devices * 2 * passes * features * FLOAT
            kinds = ("all-gather", "reduce-scatter") if learns else ("all-gather",)
            found += [Collective(kind, moments) for kind in kinds]
    if method.positives:
        keys = batch_size * model.projection * FLOAT
        found.append(Collective("all-gather", keys))
    return [*found, Collective("all-reduce", gradient_bytes(config))]


def gradient_bytes(config: ConfigDict) -> int:
    """Size of the gradient: float32, whatever the products' type."""
    return FLOAT * sum(leaf.size for leaf in jax.tree.leaves(abstract_state(config).params))


def exchange_seconds(
    exchanges: list[Collective], devices: int, bandwidth: float, latency: float
) -> float:
    """Time of all exchanges, one after the other, none hidden behind arithmetic.

    Args:
      exchanges: from `collectives`, of the same number of devices.
      bandwidth: bytes that a device sends a second while it receives as many, on the slowest
        link of a ring through all devices.
      latency: seconds until a message arrives; messages travel along a tree.
    """
    if devices == 1:
        return 0.0
    share = (devices - 1) / devices
    total = 0.0
    for exchange in exchanges:
        # An all-reduce is a reduce-scatter and an all-gather.
        rounds = 2 if exchange.kind == "all-reduce" else 1
        total += rounds * (share * exchange.bytes / bandwidth + math.log2(devices) * latency)
    return total
