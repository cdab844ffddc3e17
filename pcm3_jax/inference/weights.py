"""A trained model's configurations and arrays, and their validation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from pcm3_jax.data.skeleton import PERSONS
from pcm3_jax.errors import UserError
from pcm3_jax.inference.detection import Detector
from pcm3_jax.inference.forecast import Forecaster
from pcm3_jax.methods.state import build_model, build_readout, init_variables, key_part
from pcm3_jax.settings import Config, Section, Stream

# Parts of a training state that a file may hold besides the network.
TRAINING = ("key_params", "key_batch_stats", "queue", "queue_pointer")
# Running variances of the joints of a person who is there differ by more, in square metres.
_ABSENT = 1e-8
# Heads of trained tasks, besides the classifier: they have settings, and belong to one encoder.
HEADS: dict[str, Any] = {"detector": Detector, "forecaster": Forecaster}


@dataclasses.dataclass(frozen=True)
class Weights:
    """One encoder: its configuration and arrays.

    Attributes:
      config: complete and valid.
      tree: {"params": …, "batch_stats": …}, in which only the encoder is required; optionally the
        parts of `TRAINING` and, for the P parts of a feature, {"whitening": {"mean": (P, 2H),
        "matrix": (P, 2H, 2H)}}.
    """

    config: Config
    tree: dict[str, Any]

    @property
    def features(self) -> int:
        """F, the length of the encoder's feature: 2H for each part of its readout."""
        return 2 * self.config.model.hidden * build_readout(self.config).parts

    @property
    def persons(self) -> int:
        """Of its training data, 1 or 2: the variances of an absent second person never change."""
        variance = self.tree["batch_stats"]["encoder"]["input_norm"]["variance"]
        spread = np.ptp(np.reshape(variance, (-1, PERSONS)), axis=0)
        # Those of an untrained encoder are all 1, and tell nothing.
        return 1 if spread[1] < _ABSENT <= spread[0] else 2

    def network(self) -> dict[str, Any]:
        """Only the encoder, without projector, decoder and training state."""
        parts = {
            part: {"encoder": self.tree[part]["encoder"]} for part in ("params", "batch_stats")
        }
        return parts | {name: self.tree[name] for name in ("whitening",) if name in self.tree}


@dataclasses.dataclass(frozen=True)
class ModelWeights:
    """A model: one encoder, or several whose features are joined, and its heads.

    Attributes:
      encoders: by name, in the order of their features.
      heads: {"classifier": {"kernel": (F, classes), "bias": (classes,)}} and arrays of `HEADS`, or
        less.  F is the length of the model's feature, the sum of the encoders' F.
      classes: names of the classifier's or detector's classes.
      threshold: probability below which the classifier's best class counts as none of them.
      window: number of last frames to classify online; 0 if unknown.
      persons: of the recordings that the heads were trained on, 1 or 2; 0 if unknown.
      provenance: how each part, by its name, was made; JSON.
      half: whether files store the encoders' parameters as float16.
      head_settings: settings of those of the heads that are in `HEADS`.
    """

    encoders: dict[str, Weights]
    heads: dict[str, dict[str, np.ndarray]] = dataclasses.field(default_factory=dict)
    classes: tuple[str, ...] = ()
    threshold: float = 0.0
    window: int = 0
    persons: int = 0
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)
    half: bool = False
    head_settings: dict[str, Section] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, weights: Weights, **more: Any) -> ModelWeights:
        """A model of one encoder, named after its stream; ``more`` are further attributes."""
        return cls({weights.config.views.stream: weights}, **more)

    @property
    def only(self) -> Weights:
        """The encoder of a model that has one.

        Raises:
          UserError: it has several.
        """
        if len(self.encoders) > 1:
            raise UserError(
                f"The model has {len(self.encoders)} encoders ({', '.join(self.encoders)}), but "
                "one is needed here: name a model of one encoder."
            )
        return next(iter(self.encoders.values()))

    @property
    def trained_persons(self) -> int:
        """Of the recordings that it was trained on, 1 or 2."""
        return self.persons or max(weights.persons for weights in self.encoders.values())

    @property
    def features(self) -> int:
        """F, the length of the model's feature."""
        return sum(weights.features for weights in self.encoders.values())

    def select(self, stream: Stream) -> ModelWeights:
        """The model of the encoder of one stream, without heads.

        Raises:
          UserError: there is no such encoder.
        """
        for name, weights in self.encoders.items():
            if weights.config.views.stream == stream:
                provenance = {name: self.provenance[name]} if name in self.provenance else {}
                return ModelWeights({name: weights}, provenance=provenance, half=self.half)
        raise UserError(
            f"The model has encoders for {', '.join(self.encoders)}, but none for the stream "
            f"{stream!r}: set --config.views.stream to one of them."
        )


def join(models: Sequence[ModelWeights]) -> ModelWeights:
    """One model of the encoders of several, in float16, without projectors, decoders and heads.

    Raises:
      UserError: a parameter is too large for float16.
    """
    encoders: dict[str, Weights] = {}
    provenance = {}
    for model in models:
        for old, weights in model.encoders.items():
            stream = weights.config.views.stream
            same = sum(other.config.views.stream == stream for other in encoders.values())
            name = f"{stream}_{same + 1}" if same else str(stream)
            with np.errstate(over="ignore"):  # overflow to infinity is rejected by `check`
                tree = jax.tree.map(np.float32, halved(weights.network()))
            config = weights.config.copy()
            # Paths of the machine that trained it mean nothing elsewhere.
            config.encoder, config.data.dir = "", Config().data.dir
            encoders[name] = Weights(config, tree)
            if old in model.provenance:
                provenance[name] = model.provenance[old]
    return check(ModelWeights(encoders, provenance=provenance, half=True), "The joined model")


def halved(tree: dict[str, Any]) -> dict[str, Any]:
    """An encoder's tree with its large arrays as float16.

    The statistics stay float32: variances of motion are below float16's range.
    """
    parts = {name: tree[name] for name in ("params", "whitening") if name in tree}
    return tree | jax.tree.map(np.float16, parts)


def template(config: Config) -> dict[str, Any]:
    """Shapes of every part that an encoder of this configuration may have."""
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


def check(model: ModelWeights, what: str) -> ModelWeights:
    """Returns the model if every part present is complete, finite, and of the right shape.

    Raises:
      UserError: a part fails this check; the message names the first such array.
    """
    if not model.encoders:
        raise UserError(f"{what} holds no usable model (it has no encoder).")
    for name, weights in model.encoders.items():
        _check_encoder(weights, what if len(model.encoders) == 1 else f"{what}, encoder {name},")
    try:
        wanted = _head_shapes(model)
    except UserError as error:
        raise UserError(f"{what} cannot be used: {error}") from error
    if problem := _difference(model.heads, wanted):
        raise UserError(f"{what} does not fit its configuration: {problem}.")
    if not 0 <= model.threshold < 1:
        raise UserError(f"{what} is damaged: its threshold is {model.threshold}.")
    if model.window < 0:
        raise UserError(f"{what} is damaged: its window is {model.window}.")
    if model.persons not in (0, 1, 2):
        raise UserError(f"{what} is damaged: it is for {model.persons} persons.")
    return model


def _head_shapes(model: ModelWeights) -> dict[str, Any]:
    """Shapes of the heads that the model should have; raises UserError for bad settings."""
    classes, wanted = len(model.classes), {}
    if "classifier" in model.heads:
        shapes = {"kernel": (model.features, classes), "bias": (classes,)}
        wanted["classifier"] = {
            name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()
        }
    for head, settings in model.head_settings.items():
        settings.check_values()
        wanted[head] = HEADS[head].shapes(model.only.config, settings, classes)
    return wanted


def _check_encoder(weights: Weights, what: str) -> None:
    """Raises UserError as `check`."""
    try:
        try:
            weights.config.check()
        except UserError as error:
            raise UserError(f"{what} cannot be used: {error}") from error
        model, params = weights.config.model, weights.tree["params"]
        sizes = [("encoder", model.layers)]
        sizes += [("decoder", model.decoder_layers)] if "decoder" in params else []
        for part, layers in sizes:
            # Checked first: `template` builds as many layers as the configuration says.
            if len(params[part]["gru"]) != layers:
                raise UserError(f"{what} has another number of layers than its configuration.")
        parts, size = build_readout(weights.config).parts, 2 * model.hidden
        shapes = {"mean": (parts, size), "matrix": (parts, size, size)}
        whitening = {k: jax.ShapeDtypeStruct(shape, np.float32) for k, shape in shapes.items()}
        wanted = template(weights.config) | {"whitening": whitening}
        problem = _network_difference(weights.tree, wanted)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{what} holds no usable model ({type(error).__name__}: {error})."
        ) from error
    if problem:
        raise UserError(f"{what} does not fit its configuration: {problem}.")


def _network_difference(tree: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    """What is wrong with an encoder's tree; whole modules and parts may be missing."""
    for name in ("params", "batch_stats"):
        wanted = wanted | {name: {k: v for k, v in wanted[name].items() if k in tree[name]}}
        if "encoder" not in wanted[name]:
            return f"{name}/encoder is missing"
    return _difference(tree, {name: part for name, part in wanted.items() if name in tree})


def _difference(tree: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    """What is wrong with the tree, as a clause."""
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
