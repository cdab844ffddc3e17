"""A trained model's configuration and arrays, and their validation."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from pcm3_jax.errors import UserError
from pcm3_jax.inference.detection import Detector
from pcm3_jax.inference.forecast import Forecaster
from pcm3_jax.methods.state import build_model, init_variables, key_part
from pcm3_jax.settings import Config, Section

# Parts of a training state that a file may hold besides the network.
TRAINING = ("key_params", "key_batch_stats", "queue", "queue_pointer")
# Heads that have settings of their own, by their name in the tree.
HEADS: dict[str, Any] = {"detector": Detector, "forecaster": Forecaster}


@dataclasses.dataclass(frozen=True)
class Weights:
    """A model's configuration and arrays.

    Attributes:
      config: complete and valid.
      tree: {"params": …, "batch_stats": …}, in which only the encoder is required; optionally
        {"classifier": {"kernel": (2H, classes), "bias": (classes,)}}, a head of `HEADS` and the
        parts of `TRAINING`.
      classes: names of the classifier's or detector's classes.
      heads: settings of the heads of `HEADS` that the tree has.
    """

    config: Config
    tree: dict[str, Any]
    classes: tuple[str, ...] = ()
    heads: dict[str, Section] = dataclasses.field(default_factory=dict)


def template(config: Config) -> dict[str, Any]:
    """Shapes of every part, except the classifier, that a model of this configuration may have."""
    model = build_model(config)
    params, stats = jax.eval_shape(lambda: init_variables(model, jax.random.key(0)))
    queue = jax.ShapeDtypeStruct((config.method.queue_size, model.projection), np.float32)
    return {
        "params": params,
        "batch_stats": stats,
        "key_params": key_part(params),
        "key_batch_stats": {"encoder": stats["encoder"]},
        "queue": queue,
        "queue_pointer": jax.ShapeDtypeStruct((), np.int32),
    }


def check(weights: Weights, what: str) -> Weights:
    """Returns the weights if every part present is complete, finite, and of the right shape.

    Raises:
      UserError: a part fails this check; the message names the first such array.
    """
    try:
        try:
            weights.config.check()
            for settings in weights.heads.values():
                settings.check_values()
        except UserError as error:
            raise UserError(f"{what} cannot be used: {error}") from error
        model, params = weights.config.model, weights.tree["params"]
        sizes = [("encoder", model.layers)]
        sizes += [("decoder", model.decoder_layers)] if "decoder" in params else []
        for part, layers in sizes:
            # Checked first: `template` builds as many layers as the configuration says.
            if len(params[part]["gru"]) != layers:
                raise UserError(f"{what} has another number of layers than its configuration.")
        wanted = template(weights.config)
        if "classifier" in weights.tree:
            classes = len(weights.classes)
            shapes = {"kernel": (2 * model.hidden, classes), "bias": (classes,)}
            wanted["classifier"] = {
                name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()
            }
        for head, settings in weights.heads.items():
            wanted[head] = HEADS[head].shapes(weights.config, settings, len(weights.classes))
        lost = sorted(weights.heads.keys() - weights.tree.keys())
        problem = f"{lost[0]} is missing" if lost else _difference(weights.tree, wanted)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{what} holds no usable model ({type(error).__name__}: {error})."
        ) from error
    if problem:
        raise UserError(f"{what} does not fit its configuration: {problem}.")
    return weights


def _difference(tree: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    """What is wrong with the tree, as a clause; whole modules and parts may be missing."""
    for name in ("params", "batch_stats"):
        wanted = wanted | {name: {k: v for k, v in wanted[name].items() if k in tree[name]}}
        if "encoder" not in wanted[name]:
            return f"{name}/encoder is missing"
    wanted = {name: part for name, part in wanted.items() if name in tree}
    ours, theirs = flatten_dict(tree, sep="/"), flatten_dict(wanted, sep="/")
    odd = sorted(ours.keys() ^ theirs.keys())
    if odd:
        return f"{ascii(odd[0])[:80]} is {'unknown' if odd[0] in ours else 'missing'}"
    for name, array in ours.items():
        shape, dtype = theirs[name].shape, theirs[name].dtype
        if (array.shape, array.dtype) != (shape, dtype):
            return f"{name} is {array.dtype} {array.shape} instead of {dtype} {shape}"
        if not np.isfinite(array).all():
            return f"{name} has a value that is not finite"
    return None
