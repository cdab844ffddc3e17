"""The baseline CMD: cross-modal mutual distillation (Mao et al., ECCV 2022).

Three MoCo branches see the joint, bone and motion stream of the same two augmented views.  Each
has an encoder, a key encoder and a queue of its own, and every branch teaches the two others
which of the past samples a sample resembles.

The branches are one `TrainState`, whose networks, running statistics and queues lead with the
streams in `STREAM_ORDER`.  One pointer serves all queues, so that a position holds the same
sample in each, and similarities to it can be compared.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from ml_collections import ConfigDict

from pcm3_jax.augment.pipeline import Batch, draw_poses
from pcm3_jax.data.skeleton import STREAM_ORDER, to_stream
from pcm3_jax.methods import losses, moco
from pcm3_jax.methods.pcm3 import Metrics, apply_gradients, step_key
from pcm3_jax.methods.state import TrainState, build_model, draw_variables, initial_state, key_part
from pcm3_jax.models.pcm3 import PCM3, PromptOffsets


def branch_model(config: ConfigDict, axis_name: str | None = None) -> PCM3:
    """The network of one branch: PCM³'s encoder and projector, and no more."""
    return build_model(config, axis_name).clone(
        positives=("intra",), masked_prediction=False, domain_prompts=False, task_prompts=False
    )


def create_state(
    model: PCM3, optimizer: optax.GradientTransformation, config: ConfigDict
) -> TrainState:
    """The state before the first step; each branch is drawn on its own."""
    keys = jax.random.split(jax.random.key(config.seed), len(STREAM_ORDER))
    draw = functools.partial(draw_variables, model, config.method.queue_size)
    return initial_state(*jax.vmap(draw)(keys), optimizer)


def cmd_step(
    state: TrainState,
    frames: jax.Array,
    batch: Batch,
    *,
    model: PCM3,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
) -> tuple[TrainState, Metrics]:
    """Draws a query and a key view, as PCM³'s intra positive, and updates the branches.

    Arguments and results are those of `steps.pretrain_step`.
    """
    query, key = (
        every_stream(
            *draw_poses(key, frames, batch.clips, batch.position, config.views, jittering=True)
        )
        for key in jax.random.split(step_key(config.seed, state.step))
    )
    return update(state, query, key, model=model, optimizer=optimizer, config=config)


def update(
    state: TrainState,
    query: jax.Array,
    key: jax.Array,
    *,
    model: PCM3,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
) -> tuple[TrainState, Metrics]:
    """One optimizer step on given views, `every_stream` of this device's samples."""
    key_params = moco.update_key_params(
        state.key_params, key_part(state.params), config.method.key_momentum
    )
    # Not a function of what the loss is differentiated by: no gradient reaches a teacher.
    keys, key_batch_stats = embed(key_params, state.key_batch_stats, key, model)

    def loss_fn(params):
        z, batch_stats = embed(params, state.batch_stats, query, model)
        loss, metrics = cmd_loss(z, keys, state.queue, config)
        return loss, (metrics, batch_stats)

    gradients, (metrics, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
    gather = functools.partial(moco.gather_keys, axis_name=model.axis_name)
    push = jax.vmap(moco.push, in_axes=(0, None, 0), out_axes=(0, None))
    queue, pointer = push(state.queue, state.queue_pointer, jax.vmap(gather)(keys))
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


def every_stream(poses: jax.Array, missing: jax.Array) -> jax.Array:
    """The streams (S, N, T, M, V, C) of poses, given where joints are missing (N, T, M, V)."""
    return jnp.stack([to_stream(poses, missing, name) for name in STREAM_ORDER])


def embed(params: Any, batch_stats: Any, streams: jax.Array, model: PCM3) -> tuple[jax.Array, Any]:
    """Every branch's embeddings of its stream, and its statistics.

    Args:
      params, batch_stats: of the query or the key side; they lead with the streams.
      streams: views, as `every_stream` gives them.

    Returns:
      Unit vectors (S, N, D) and the next running statistics.
    """
    # Without prompts there is nothing to place, and the key's pass is also the query's.
    offsets = PromptOffsets(*[0] * len(PromptOffsets.names()))

    def branch(params, batch_stats, poses):
        z, updated = model.apply(
            {"params": params, "batch_stats": batch_stats},
            poses,
            offsets,
            method=PCM3.key,
            mutable=["batch_stats"],
        )
        return z, updated["batch_stats"]

    return jax.vmap(branch)(params, batch_stats, streams)


def cmd_loss(
    z: jax.Array, keys: jax.Array, queue: jax.Array, config: ConfigDict
) -> tuple[jax.Array, Metrics]:
    """L = Σ_s InfoNCE_s + λ Σ_{a≠b} KL(P_a ‖ Q_b), with a and b among the streams.

    Args:
      z: embeddings of the query views (S, N, D).
      keys: embeddings of the key views (S, N, D), without gradient.
      queue: past keys (S, K, D).

    Returns:
      The loss and its terms.
    """
    method = config.method
    student, teacher = (jnp.einsum("snd,skd->snk", x, queue) for x in (z, keys))
    contrast = jax.vmap(functools.partial(losses.info_nce, temperature=method.temperature))
    nce = contrast(student, (z * keys).sum(-1))
    metrics = {f"nce_{name}": nce[i] for i, name in enumerate(STREAM_ORDER)}
    metrics["distillation"] = mutual_distillation(
        teacher,
        student,
        config.cmd.neighbours,
        method.teacher_temperature,
        method.student_temperature,
    )
    metrics["loss"] = nce.sum() + config.cmd.weight * metrics["distillation"]
    return metrics["loss"], metrics


def mutual_distillation(
    teacher: jax.Array,
    student: jax.Array,
    neighbours: int,
    teacher_temperature: float,
    student_temperature: float,
) -> jax.Array:
    """Σ_{a≠b} KL(P_a ‖ Q_b), mean over the batch.

    P_a are the similarities of a's key to its ``neighbours`` nearest keys in a's queue, Q_b those
    of b's query to the keys at the same positions of b's queue, each a softmax of its own.

    Args:
      teacher, student: similarities of the keys and of the queries to the queues (S, N, K).
    """
    # As published, the pairs' divergences are summed and averaged over the batch alone.  What
    # differs from the publication lies elsewhere: the encoder and the augmentation are PCM³'s.
    nearest, places = lax.top_k(teacher, neighbours)
    divergences = (
        losses.similarity_kl(
            nearest[a],
            jnp.take_along_axis(student[b], places[a], axis=-1),
            teacher_temperature,
            student_temperature,
        )
        for a, b in itertools.permutations(range(len(teacher)), 2)
    )
    return sum(divergences, jnp.float32(0))
