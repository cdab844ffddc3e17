"""The functional training state: everything a step changes, and nothing else."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from pcm3_jax.models.encoder import unit_length
from pcm3_jax.models.pcm3 import PCM3, PromptOffsets, QueryViews
from pcm3_jax.skeleton import COORDINATES, JOINTS, PERSONS

# The parts of the network that the key encoder has a copy of.
KEY_MODULES = ("encoder", "projector")


@flax.struct.dataclass
class TrainState:
    """State of pretraining, replicated on every device.

    Attributes:
      step: int32, optimizer steps taken.
      healthy: False once a loss or gradient was not finite; the state is then left as it was
        before that step, so that the failure can be reproduced from it.
      params, batch_stats: the network of the query side.
      key_params, key_batch_stats: the momentum-updated encoder and projector (§3.1).
      queue: (K, D) past keys, unit vectors.
      queue_pointer: int32, where the oldest key lies.
      opt_state: of the optimizer.
    """

    step: jax.Array
    healthy: jax.Array
    params: Any
    batch_stats: Any
    key_params: Any
    key_batch_stats: Any
    queue: jax.Array
    queue_pointer: jax.Array
    opt_state: optax.OptState


def key_part(params: Any) -> Any:
    """The parameters of which the key encoder is a copy."""
    return {name: params[name] for name in KEY_MODULES}


def build_model(config: ConfigDict, axis_name: str | None = None) -> PCM3:
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
        axis_name=axis_name,
    )


def build_optimizer(config: ConfigDict, steps_per_epoch: int) -> optax.GradientTransformation:
    """The optimizer, with weight decay on every parameter.

    "sgd" is the paper's (§4.2), with momentum and the decay coupled, that is, added to the
    gradient.  "adamw" learns faster in short runs of small networks.
    """
    optimizer = config.optimizer
    schedule = optax.piecewise_constant_schedule(
        optimizer.learning_rate,
        {epoch * steps_per_epoch: optimizer.decay_factor for epoch in optimizer.decay_epochs},
    )
    if optimizer.name == "adamw":
        return optax.adamw(schedule, b1=optimizer.momentum, weight_decay=optimizer.weight_decay)
    return optax.chain(
        optax.add_decayed_weights(optimizer.weight_decay),
        optax.sgd(schedule, momentum=optimizer.momentum),
    )


def init_variables(model: PCM3, key: jax.Array) -> tuple[Any, Any]:
    """Initial parameters and running statistics."""
    poses = jnp.zeros((2, 2, PERSONS, JOINTS, COORDINATES))
    views = QueryViews(poses, poses, jnp.ones(poses.shape[1:-1]), poses)
    offsets = PromptOffsets(*[jnp.int32(0)] * len(PromptOffsets.names()))
    # Shapes do not depend on the other devices, whose axis exists only inside a mapped step.
    init = jax.jit(model.clone(axis_name=None).init, static_argnames="method")
    variables = init(key, views, offsets, method=PCM3.initialize)
    return variables["params"], variables["batch_stats"]


def create_state(
    model: PCM3, optimizer: optax.GradientTransformation, config: ConfigDict
) -> TrainState:
    """The state before the first step: the key encoder a copy, the queue random unit vectors."""
    key_params, key_queue = jax.random.split(jax.random.key(config.seed))
    params, batch_stats = init_variables(model, key_params)
    queue = jax.random.normal(key_queue, (config.method.queue_size, model.projection))
    # A copy, not an alias: the step donates its state, and no buffer can be donated twice.
    copy = lambda tree: jax.tree.map(jnp.copy, tree)  # noqa: E731
    return TrainState(
        step=jnp.int32(0),
        healthy=jnp.bool_(True),
        params=params,
        batch_stats=batch_stats,
        key_params=copy(key_part(params)),
        key_batch_stats=copy({"encoder": batch_stats["encoder"]}),
        queue=unit_length(queue),
        queue_pointer=jnp.int32(0),
        opt_state=optimizer.init(params),
    )
