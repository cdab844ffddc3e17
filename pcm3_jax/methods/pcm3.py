"""One pretraining step of PCM³: pure per-device functions, with collectives over a named axis.

`pretrain_step` draws the views and prompt offsets, `update` does the rest.  The loss uses no random
numbers, so that it can be compared with a reference implementation on the same views.
"""

from __future__ import annotations

import functools
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax import lax

from pcm3_jax.augment.pipeline import Views, draw_offsets, draw_views
from pcm3_jax.data.batch import Batch
from pcm3_jax.data.skeleton import FEATURES
from pcm3_jax.methods import losses, moco
from pcm3_jax.methods.method import FLOAT, Collective, decoder_flops, encoder_flops
from pcm3_jax.methods.method import Method as PretrainingMethod
from pcm3_jax.methods.state import State, TrainState, build_model, create_state, key_part
from pcm3_jax.models.encoder import unit_length
from pcm3_jax.models.pcm3 import PCM3, PromptOffsets
from pcm3_jax.settings import Config, Method

Metrics = dict[str, jax.Array]


AnyState = TypeVar("AnyState", bound=State)


def pretrain_step(
    state: TrainState,
    frames: jax.Array,
    batch: Batch,
    *,
    model: PCM3,
    optimizer: optax.GradientTransformation,
    config: Config,
) -> tuple[TrainState, Metrics]:
    """Draws this step's views from packed frames and updates the state.

    Args:
      state: the same on every device.
      frames: packed frames (F, M * V * C) that the batch's clips refer to.
      batch: this device's share of the global batch.
      model, optimizer: those that the state was created with.
      config: the whole configuration.

    Returns:
      The next state, and metrics averaged over the global batch.
    """
    key_views, key_offsets = jax.random.split(step_key(config.seed, state.step))
    views = draw_views(key_views, frames, batch, config.views)
    offsets = draw_offsets(key_offsets, model.hidden, model.prompt_width)
    return update(state, views, offsets, model=model, optimizer=optimizer, config=config)


def step_key(seed: int, step: jax.Array) -> jax.Array:
    """The key that all draws of a step derive from."""
    # fold_in(…, 1) makes these keys distinct from those that initialise the state.
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), step)


def update(
    state: TrainState,
    views: Views,
    offsets: PromptOffsets,
    *,
    model: PCM3,
    optimizer: optax.GradientTransformation,
    config: Config,
) -> tuple[TrainState, Metrics]:
    """One step on given views.

    Updates the key encoder (momentum), applies the gradient of Eq. 7 and enqueues the keys.

    Args:
      state: the same on every device.
      views, offsets: of this device's samples.
      model, optimizer, config: as in `pretrain_step`.

    Returns:
      The next state, and metrics averaged over the global batch.
    """
    method = config.method
    key_params = moco.update_key_params(
        state.key_params, key_part(state.params), method.key_momentum
    )
    teachers: dict[str, jax.Array] = {}
    key_batch_stats, queue, pointer = state.key_batch_stats, state.queue, state.queue_pointer
    if model.positives:
        keys, key_batch_stats = encode_keys(state, key_params, views, offsets, model)
        all_keys = moco.gather_keys(keys, model.axis_name)
        # The loss uses the old state.queue: this batch's keys are negatives from the next step on.
        queue, pointer = moco.push(queue, pointer, all_keys)
        partner_keys = all_keys[views.partner]
        mixed_keys = unit_length((1 - views.mix_share) * keys + views.mix_share * partner_keys)
        teachers = dict.fromkeys(model.positives, keys) | {"inter": mixed_keys}

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[Metrics, Any]]:
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
    """Averages gradients over the devices and takes an optimizer step.

    Args:
      state: before the step.
      gradients, metrics: of this device's samples.
      optimizer: the one that created ``state.opt_state``.
      axis_name: mapped device axis that both are averaged over, or None.
      moved: new values of the other fields of the state, kept only if the step is finite.

    Returns:
      The next state, and metrics averaged over the global batch.  If the loss or the
      gradient is not finite, the state is the one before the step, with ``finite=False``.
    """
    # Skipped for a single device, where XLA would still copy all gradients for the pmean.
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
    # XLA fuses one select per leaf into the update; a `lax.cond` would copy the state.
    unchanged = state.replace(finite=finite)
    return jax.tree.map(functools.partial(jnp.where, finite), advanced, unchanged), metrics


def encode_keys(
    state: TrainState, key_params: Any, views: Views, offsets: PromptOffsets, model: PCM3
) -> tuple[jax.Array, Any]:
    """This device's keys (N, D), unit vectors without gradient, and the next key statistics."""
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
    method: Method,
) -> tuple[jax.Array, tuple[Metrics, Any]]:
    """L = L_con + λ_m L_mask + λ_kl L_kl (Eq. 7) of this device's samples.

    Args:
      params: of the query side.
      state: for its queue and running statistics.
      views, offsets: of this device's samples.
      teachers: {positive: (N, D)}, the key that each positive is contrasted with.
      model: the network.
      method: the ``method`` section of the configuration.

    Returns:
      The loss, and (metrics, the next running statistics).
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


class PCM3Method(PretrainingMethod):
    """PCM³ (§3)."""

    name = "pcm3"
    decodes = True

    build_model = staticmethod(build_model)
    create_state = staticmethod(create_state)
    step = staticmethod(pretrain_step)

    def step_flops(self, config: Config) -> int:
        method, model = config.method, config.model
        positives = set(method.positives)
        passes = len(positives | ({"mask"} if method.masked_prediction else set()))
        guided = "predict" in positives and method.contrast_guides_decoder
        decodings = (1 + guided) if method.masked_prediction else 0
        keys = bool(positives)
        projector = 2 * (2 * model.hidden) * (2 * model.hidden + model.projection)
        queue = 2 * model.projection * method.queue_size
        return (
            (3 * passes + keys) * encoder_flops(config)
            + 3 * decodings * decoder_flops(config)
            + (3 * len(positives) + keys) * projector
            # Logits of the embeddings and, for the KL term, of the teachers' keys.
            + (2 + bool(method.kl_weight)) * len(positives) * queue
        )

    def negatives(self, config: Config) -> int:
        return config.method.queue_size if config.method.positives else 0

    def collectives(self, config: Config, batch_size: int, devices: int) -> list[Collective]:
        """The collectives of the gradients and metrics, the BatchNorm moments and the keys.

        The backward pass of a differentiated all-gather is a reduce-scatter.
        """
        model, method = config.model, config.method
        predicted = "predict" in method.positives
        first_pass = {*method.positives} - {"predict"}
        first_pass |= {"mask"} if method.masked_prediction else set()
        prompted = method.domain_prompts and method.prompt_placement == "before_norm"
        guided = predicted and method.contrast_guides_decoder
        # (features, passes, whether a gradient flows), for every BatchNorm of the step.
        norms = [
            (FEATURES, len(first_pass), prompted),
            (model.decoder_hidden, method.masked_prediction * (1 + guided), True),
            # The input norm of the predicted view gets a gradient through the decoder (guided) or
            # through the domain prompt.
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
            found.append(Collective("all-gather", batch_size * model.projection * FLOAT))
        return [*found, Collective("all-reduce", self.gradient_bytes(config))]
