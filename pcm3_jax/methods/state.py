"""The training state (everything that a step changes) and its initialisation."""

from __future__ import annotations

from typing import Any, Self

import flax.struct
import jax
import jax.numpy as jnp
import optax

from pcm3_jax.data.skeleton import COORDINATES, JOINTS, PERSONS
from pcm3_jax.models.encoder import Encoder, unit_length
from pcm3_jax.models.pcm3 import PCM3, PromptOffsets, QueryViews
from pcm3_jax.settings import Config

# The submodules that the key encoder copies.
KEY_MODULES = ("encoder", "projector")


class State(flax.struct.PyTreeNode):
    """State of any training, replicated on every device.

    Attributes:
      step: int32, optimizer steps taken.
      finite: False after a step with a non-finite loss or gradient.  The state is then kept as
        it was before that step, so that the failure can be reproduced.
      params, batch_stats: variables of the trained network.
      opt_state: the optimizer's state.
    """

    step: jax.Array
    finite: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState

    @classmethod
    def start(
        cls, params: Any, batch_stats: Any, optimizer: optax.GradientTransformation, **more: Any
    ) -> Self:
        """The state before the first step; ``more`` holds the additional fields of a subclass."""
        return cls(
            step=jnp.int32(0),
            finite=jnp.bool_(True),
            params=params,
            batch_stats=batch_stats,
            opt_state=optimizer.init(params),
            **more,
        )

    @property
    def variables(self) -> dict[str, Any]:
        return {"params": self.params, "batch_stats": self.batch_stats}

    def starting_from(self, params: Any, batch_stats: Any) -> Self:
        """This state, before the first step, with other variables of the trained network."""
        return self.replace(params=params, batch_stats=batch_stats)


class TrainState(State):
    """State of pretraining; ``params`` and ``batch_stats`` are those of the query network.

    Attributes:
      key_params, key_batch_stats: the momentum-updated encoder and projector (§3.1).
      queue: (K, D) past keys, unit vectors.
      queue_pointer: int32, index of the oldest key.
    """

    key_params: Any
    key_batch_stats: Any
    queue: jax.Array
    queue_pointer: jax.Array

    def starting_from(self, params: Any, batch_stats: Any) -> Self:
        """This state with other variables, also copied to the key side."""
        state = super().starting_from(params, batch_stats)
        return state.replace(**_key_side(params, batch_stats))


def key_part(params: Any) -> Any:
    """The parameters that the key encoder copies."""
    return {name: params[name] for name in KEY_MODULES}


def build_model(config: Config, axis_name: str | None = None) -> PCM3:
    """The network of a configuration's ``model`` and ``method`` sections."""
    model, method = config.model, config.method
    return PCM3(
        hidden=model.hidden,
        layers=model.layers,
        recurrence=model.recurrence,
        projection=model.projection,
        decoder_hidden=model.decoder_hidden,
        decoder_layers=model.decoder_layers,
        positives=tuple(method.positives),
        masked_prediction=method.masked_prediction,
        contrast_guides_decoder=method.contrast_guides_decoder,
        domain_prompts=method.domain_prompts,
        task_prompts=method.task_prompts,
        prompt_placement=method.prompt_placement,
        prompt_width=model.prompt_width,
        dtype=jnp.dtype(model.dtype),
        remat=model.remat,
        axis_name=axis_name,
    )


def build_encoder(config: Config, axis_name: str | None = None) -> Encoder:
    """The encoder of a configuration, without projector, decoder and prompts."""
    model = config.model
    return Encoder(
        hidden=model.hidden,
        layers=model.layers,
        recurrence=model.recurrence,
        prompt_placement=config.method.prompt_placement,
        dtype=jnp.dtype(model.dtype),
        axis_name=axis_name,
        remat=model.remat,
    )


def init_variables(model: PCM3, key: jax.Array) -> tuple[Any, Any]:
    """Initial parameters and running statistics."""
    poses = jnp.zeros((2, 2, PERSONS, JOINTS, COORDINATES))
    views = QueryViews(poses, poses, jnp.ones(poses.shape[1:-1]), poses)
    offsets = PromptOffsets(*[jnp.int32(0)] * len(PromptOffsets.names()))
    # Initialise without the axis name, which is bound only inside a mapped step; no shape depends
    # on it.
    init = jax.jit(model.clone(axis_name=None).init, static_argnames="method")
    variables = init(key, views, offsets, method=PCM3.initialize)
    return variables["params"], variables["batch_stats"]


def random_encoder(config: Config) -> dict[str, Any]:
    """{"params": {"encoder": …}, "batch_stats": {"encoder": …}} of a network before training."""
    params, batch_stats = init_variables(build_model(config), jax.random.key(config.seed))
    return {
        "params": {"encoder": params["encoder"]},
        "batch_stats": {"encoder": batch_stats["encoder"]},
    }


def create_state(
    model: PCM3, optimizer: optax.GradientTransformation, config: Config
) -> TrainState:
    """The initial state: key encoder copied from the query side, queue of random unit vectors."""
    key = jax.random.key(config.seed)
    return initial_state(*draw_variables(model, config.method.queue_size, key), optimizer)


def draw_variables(model: PCM3, queue_size: int, key: jax.Array) -> tuple[Any, Any, jax.Array]:
    """Initial parameters, running statistics and queue."""
    key_params, key_queue = jax.random.split(key)
    queue = jax.random.normal(key_queue, (queue_size, model.projection))
    return *init_variables(model, key_params), unit_length(queue)


def initial_state(
    params: Any, batch_stats: Any, queue: jax.Array, optimizer: optax.GradientTransformation
) -> TrainState:
    """The state before the first step, from the output of `draw_variables`."""
    return TrainState.start(
        params,
        batch_stats,
        optimizer,
        **_key_side(params, batch_stats),
        queue=queue,
        queue_pointer=jnp.int32(0),
    )


def _key_side(params: Any, batch_stats: Any) -> dict[str, Any]:
    """The key encoder's fields of a `TrainState`, copied from the query side."""
    fields = {
        "key_params": key_part(params),
        "key_batch_stats": {"encoder": batch_stats["encoder"]},
    }
    # A copy, not an alias: the step donates its state, and no buffer can be donated twice.
    return jax.tree.map(jnp.copy, fields)
