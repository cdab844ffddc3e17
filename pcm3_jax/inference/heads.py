"""What the heads of trained tasks share: an encoder with a head, compiled for poses."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

from pcm3_jax.data.skeleton import to_stream
from pcm3_jax.settings import Config


def compiled(
    apply: Callable[[Any, jax.Array, jax.Array], jax.Array],
    config: Config,
    tree: Mapping[str, Any],
    head: Mapping[str, Any],
) -> Callable[[Any, Any], jax.Array]:
    """A compiled function of poses (N, T, 2, 25, 3) and their visible joints (N, T, 2, 25).

    Args:
      apply: (variables, poses in the encoder's stream, poses) → output of the network.
      config: of the encoder.
      tree: of the encoder, as in `pcm3_jax.inference.weights.Weights`.
      head: parameters of the network besides those of the encoder.
    """
    params = {"encoder": tree["params"]["encoder"], **head}
    stats = {"encoder": tree["batch_stats"]["encoder"]}
    variables = jax.device_put({"params": params, "batch_stats": stats})

    @jax.jit
    def function(variables: Any, poses: jax.Array, visible: jax.Array) -> jax.Array:
        return apply(variables, to_stream(poses, visible, config.views.stream), poses)

    return functools.partial(function, variables)
