"""Communication time of a pretraining step on many devices."""

from __future__ import annotations

import math

from pcm3_jax.methods.method import Collective


def exchange_seconds(
    exchanges: list[Collective], devices: int, bandwidth: float, latency: float
) -> float:
    """Time of all exchanges, one after the other, none hidden behind arithmetic.

    Args:
      exchanges: from a method's ``collectives``, computed for this number of devices.
      bandwidth: bytes per second that a device sends, and receives at the same time, on the slowest
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
