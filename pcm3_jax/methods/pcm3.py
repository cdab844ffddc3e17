"""One pretraining step, as pure functions on one device with a named axis.

`pretrain_step` draws the views and offsets, `update` does the rest; the loss is a function of
(params, views, offsets), so it can be tested against any reference.
"""

from __future__ import annotations

import functools
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax import lax
from ml_collections import ConfigDict

from pcm3_jax.augment.pipeline import Batch, Views, draw_offsets, draw_views
from pcm3_jax.methods import losses, moco
from pcm3_jax.methods.state import State, TrainState, key_part
from pcm3_jax.models.encoder import unit_length
from pcm3_jax.models.pcm3 import PCM3, PromptOffsets

Metrics = dict[str, jax.Array]


AnyState = TypeVar("AnyState", bound=State)


def pretrain_step(
    state: TrainState,
    frames: jax.Array,
    batch: Batch,
    *,
    model: PCM3,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
) -> tuple[TrainState, Metrics]:
    """Draws this step's views from packed frames and updates the state.

    Args:
      state: the same on every device.
      frames: packed frames (F, M * V * C) that the batch points into.
      batch: this device's share of the global batch.

    Returns:
      The next state, and metrics averaged over the global batch.
    """
    key_views, key_offsets = jax.random.split(step_key(config.seed, state.step))
    views = draw_views(key_views, frames, batch, config.views)
    offsets = draw_offsets(key_offsets, model.hidden, model.prompt_width)
    return update(state, views, offsets, model=model, optimizer=optimizer, config=config)


def step_key(seed: int, step: jax.Array) -> jax.Array:
    """The key of everything that a step draws."""
    # A stream of its own, apart from the keys that initialised the state.
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), step)


def update(
    state: TrainState,
    views: Views,
    offsets: PromptOffsets,
    *,
    model: PCM3,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
) -> tuple[TrainState, Metrics]:
    """One step on given views: moves the key encoder, descends Eq. 7, and enqueues the keys."""
    method = config.method
    key_params = moco.update_key_params(
        state.key_params, key_part(state.params), method.key_momentum
    )
    teachers: dict[str, jax.Array] = {}
    key_batch_stats, queue, pointer = state.key_batch_stats, state.queue, state.queue_pointer
    if model.positives:
        keys, key_batch_stats = encode_keys(state, key_params, views, offsets, model)
        all_keys = moco.gather_keys(keys, model.axis_name)
        # The batch's keys are in the queue from the next step on.
        queue, pointer = moco.push(queue, pointer, all_keys)
        partner_keys = all_keys[views.partner]
        mixed_keys = unit_length((1 - views.mix_share) * keys + views.mix_share * partner_keys)
        teachers = dict.fromkeys(model.positives, keys) | {"inter": mixed_keys}

    def loss_fn(params):
        return pretrain_loss(params, state, views, offsets, teachers, model, method)

    gradients, (metrics, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
    return apply_gradients(
        state,
        gradients,
        metrics,
        optimizer,
        model.axis_name,
        batch_stats=batch_stats,
        key_params=key_params,
        key_batch_stats=key_batch_stats,
        queue=queue,
        queue_pointer=pointer,
    )


def apply_gradients(
    state: AnyState,
    gradients: Any,
    metrics: Metrics,
    optimizer: optax.GradientTransformation,
    axis_name: str | None,
    **moved: Any,
) -> tuple[AnyState, Metrics]:
    """The optimizer's step, after which a step's loss or gradient that is not finite is undone.

    Args:
      state: before the step.
      gradients, metrics: of this device's samples.
      axis_name: the devices' axis, over which both are averaged.
      moved: what else of the state the step has changed.

    Returns:
      The next state, and the global batch's metrics.
    """
    # On a single device the compiler would still copy all gradients.
    if axis_name is not None and lax.axis_size(axis_name) > 1:
        gradients, metrics = lax.pmean((gradients, metrics), axis_name)
    metrics["gradient_norm"] = optax.tree.norm(gradients)
    finite = state.finite & jnp.isfinite(metrics["loss"] + metrics["gradient_norm"])

    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    advanced = state.replace(
        step=state.step + 1,
        finite=finite,
        params=optax.apply_updates(state.params, updates),
        opt_state=opt_state,
        **moved,
    )
    # A choice leaf by leaf joins the loops that compute the update; a branch would copy the state.
    stayed = state.replace(finite=finite)
    return jax.tree.map(functools.partial(jnp.where, finite), advanced, stayed), metrics


def encode_keys(
    state: TrainState, key_params: Any, views: Views, offsets: PromptOffsets, model: PCM3
) -> tuple[jax.Array, Any]:
    """Unit keys (N, D) of this device, without gradient, and the key side's statistics."""
    keys, updated = model.apply(
        {"params": state.params | key_params, "batch_stats": state.key_batch_stats},
        views.key,
        offsets,
        method=PCM3.key,
        mutable=["batch_stats"],
    )
    return lax.stop_gradient(keys), updated["batch_stats"]


def pretrain_loss(
    params: Any,
    state: TrainState,
    views: Views,
    offsets: PromptOffsets,
    teachers: dict[str, jax.Array],
    model: PCM3,
    method: ConfigDict,
) -> tuple[jax.Array, tuple[Metrics, Any]]:
    """L = L_con + λ_m L_mask + λ_kl L_kl (Eq. 7) of this device's samples.

    Args:
      params: of the query side.
      state: for its queue and running statistics.
      teachers: each positive's key (N, D).
      method: the ``method`` section of the configuration.

    Returns:
      The loss, and (metrics, running statistics).
    """
    outputs, updated = model.apply(
        {"params": params, "batch_stats": state.batch_stats},
        views.query,
        offsets,
        method=PCM3.query,
        mutable=["batch_stats"],
    )
    metrics: Metrics = {}
    contrast = kl = jnp.float32(0)
    for name, z in outputs.embeddings.items():
        teacher = teachers[name]
        similarity = z @ state.queue.T
        nce = losses.info_nce(similarity, (z * teacher).sum(-1), method.temperature)
        metrics[f"nce_{name}"] = nce
        contrast += nce
        if method.kl_weight:
            kl += losses.similarity_kl(
                teacher @ state.queue.T,
                similarity,
                method.teacher_temperature,
                method.student_temperature,
            )
    loss = contrast
    if method.kl_weight and outputs.embeddings:
        metrics["kl"] = kl
        loss += method.kl_weight * kl
    if model.masked_prediction:
        mse = losses.masked_mse(views.query.target, outputs.reconstruction, views.query.visible)
        metrics["mask_mse"] = mse
        loss += method.mask_weight * mse
    metrics["loss"] = loss
    return loss, (metrics, updated["batch_stats"])
