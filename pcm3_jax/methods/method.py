"""Base class of the pretraining methods registered in `pcm3_jax.methods.METHODS`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import optax

from pcm3_jax.data.skeleton import FEATURES
from pcm3_jax.methods.optimizer import build_optimizer
from pcm3_jax.methods.state import State
from pcm3_jax.models.pcm3 import PCM3
from pcm3_jax.settings import Config, Section

FLOAT = 4  # bytes
# (state, frames, batch) → (state, metrics), on one device.
Step = Callable[..., tuple[State, dict[str, jax.Array]]]


class Collective(NamedTuple):
    """One collective operation between devices.

    Attributes:
      kind: "all-reduce", "all-gather" or "reduce-scatter".
      bytes: size of the result for an all-gather, otherwise of one device's operand.
    """

    kind: str
    bytes: int


class Method:
    """A way to pretrain an encoder without labels.

    Attributes:
      name: value of ``config.method.name`` that selects it.
      settings: sections that it adds to the configuration, by name.
      every_stream: whether one run trains an encoder for each stream; if so,
        ``config.views.stream`` selects the one to evaluate.
      decodes: whether it can train a decoder that predicts masked joints.
    """

    name: ClassVar[str]
    settings: ClassVar[Mapping[str, type[Section]]] = {}
    every_stream: ClassVar[bool] = False
    decodes: ClassVar[bool] = False

    def check(self, config: Config) -> None:
        """Raises a `UserError` for settings that the method does not support."""

    def build_model(self, config: Config, axis_name: str | None = None) -> PCM3:
        """The network, whose BatchNorms and gradients are averaged over ``axis_name``."""
        raise NotImplementedError

    def create_state(
        self, model: PCM3, optimizer: optax.GradientTransformation, config: Config
    ) -> State:
        """The state before the first step."""
        raise NotImplementedError

    def step(
        self,
        state: Any,
        frames: jax.Array,
        batch: Any,
        *,
        model: PCM3,
        optimizer: optax.GradientTransformation,
        config: Config,
    ) -> tuple[State, dict[str, jax.Array]]:
        """One step on one device, as `pcm3_jax.methods.pcm3.pretrain_step`.

        ``state`` is of the class that `create_state` makes.
        """
        raise NotImplementedError

    def step_flops(self, config: Config) -> int:
        """Matrix-product FLOPs of one step for one sample; a backward pass counts twice."""
        raise NotImplementedError

    def negatives(self, config: Config) -> int:
        """Past samples that every sample is contrasted with; 0 without a queue."""
        return 0

    def collectives(self, config: Config, batch_size: int, devices: int) -> list[Collective]:
        """Every collective of one step; [] if the method does not list them."""
        return []

    def loadable(self, tree: dict[str, Any]) -> dict[str, Any]:
        """The fields of a checkpointed state that are needed to load a model."""
        return tree

    def encoder_of(self, tree: Any, config: Config) -> Any:
        """The part of a state's tree that belongs to the network to evaluate."""
        return tree

    def build(
        self, config: Config, steps_per_epoch: int, axis_name: str | None = None
    ) -> tuple[Callable[[], State], Step]:
        """(function that creates the initial state, step function of (state, frames, batch))."""
        model = self.build_model(config, axis_name)
        optimizer = build_optimizer(config.optimizer, steps_per_epoch)
        create_state = functools.partial(self.create_state, model, optimizer, config)
        step = functools.partial(self.step, model=model, optimizer=optimizer, config=config)
        return create_state, step

    def abstract_state(self, config: Config) -> State:
        """Shapes and types of the state before the first step."""
        return jax.eval_shape(self.build(config, steps_per_epoch=1)[0])

    def gradient_bytes(self, config: Config) -> int:
        """Size of the gradient, which is float32 for every ``config.model.dtype``."""
        return FLOAT * sum(
            leaf.size for leaf in jax.tree.leaves(self.abstract_state(config).params)
        )


def encoder_flops(config: Config) -> int:
    """Matrix-product FLOPs of one encoder pass of one sequence."""
    hidden, layers = config.model.hidden, config.model.layers
    inputs = FEATURES + (layers - 1) * 2 * hidden
    # Per frame and for both directions: input and recurrent matmuls of the three gates.
    per_frame = 2 * (inputs * 6 * hidden + layers * hidden * 6 * hidden)
    return config.views.frames * per_frame


def decoder_flops(config: Config) -> int:
    """Matrix-product FLOPs of one decoder pass of one sequence."""
    model = config.model
    size = model.decoder_hidden
    linear = 2 * model.hidden * size + size * size + size * FEATURES
    return config.views.frames * 2 * (linear + model.decoder_layers * 6 * size * size)
