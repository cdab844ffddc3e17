"""The baseline CMD: cross-modal mutual distillation (Mao et al., ECCV 2022).

Three MoCo branches encode the joint, bone and motion stream of the same two augmented views.  Each
has its own encoder, key encoder and queue.  Each branch distils its similarities between a sample
and the past samples in the queue into the other two.

The branches share one `TrainState`: its parameters, running statistics and queues have a leading
axis over `STREAM_ORDER`.  All queues share one pointer, so that a position holds the same sample
in each and similarities are comparable between them.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from pcm3_jax.augment.pipeline import draw_poses
from pcm3_jax.data.batch import Batch
from pcm3_jax.data.skeleton import STREAM_ORDER, select_stream, to_stream
from pcm3_jax.methods import losses, moco
from pcm3_jax.methods.method import Method
from pcm3_jax.methods.pcm3 import Metrics, PCM3Method, apply_gradients, step_key
from pcm3_jax.methods.state import TrainState, build_model, draw_variables, initial_state, key_part
from pcm3_jax.models.pcm3 import PCM3, PromptOffsets
from pcm3_jax.settings import Config, Section, require, section, setting


@section
class CMDSettings(Section):
    """The distillation of CMD."""

    neighbours: int = setting(
        8192, "nearest keys of the teacher over which similarities are distilled", low=1
    )
    weight: float = setting(1.0, "λ, weight of the distillation loss", low=0)


def branch_model(config: Config, axis_name: str | None = None) -> PCM3:
    """The network of one branch: PCM³'s encoder and projector, without decoder and prompts."""
    return build_model(config, axis_name).clone(
        positives=("intra",), masked_prediction=False, domain_prompts=False, task_prompts=False
    )


def create_state(
    model: PCM3, optimizer: optax.GradientTransformation, config: Config
) -> TrainState:
    """The state before the first step; each branch has its own random parameters and queue."""
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
    config: Config,
) -> tuple[TrainState, Metrics]:
    """Draws a query and a key view, as for PCM³'s "intra" positive, and updates all branches.

    Args and Returns as in `pcm3.pretrain_step`.
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
    config: Config,
) -> tuple[TrainState, Metrics]:
    """One optimizer step on given views.

    Args:
      state: the same on every device.
      query, key: views of this device's samples (S, N, T, M, V, C), from `every_stream`.

    Returns:
      The next state, and metrics averaged over the global batch.
    """
    key_params = moco.update_key_params(
        state.key_params, key_part(state.params), config.method.key_momentum
    )
    # Outside of loss_fn, so that no gradient reaches the keys.
    keys, key_batch_stats = embed(key_params, state.key_batch_stats, key, model)

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[Metrics, Any]]:
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


def every_stream(poses: jax.Array, visible: jax.Array) -> jax.Array:
    """All streams (S, N, T, M, V, C) of poses, from their visible joints (N, T, M, V)."""
    return jnp.stack([to_stream(poses, visible, name) for name in STREAM_ORDER])


def embed(params: Any, batch_stats: Any, streams: jax.Array, model: PCM3) -> tuple[jax.Array, Any]:
    """Embeds each stream with its own branch.

    Args:
      params, batch_stats: of the query or the key encoders, with a leading axis over the streams.
      streams: views (S, N, T, M, V, C), from `every_stream`.

    Returns:
      Unit vectors (S, N, D) and the next running statistics.
    """
    # Without prompts, `PCM3.key` also computes the query embedding.
    offsets = PromptOffsets(*[0] * len(PromptOffsets.names()))

    def branch(params: Any, batch_stats: Any, poses: jax.Array) -> tuple[jax.Array, Any]:
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
    z: jax.Array, keys: jax.Array, queue: jax.Array, config: Config
) -> tuple[jax.Array, Metrics]:
    """L = Σ_s InfoNCE_s + λ Σ_{a≠b} KL(P_a ‖ Q_b) over streams s, a and b.

    Args:
      z: embeddings of the query views (S, N, D), unit vectors.
      keys: embeddings of the key views (S, N, D), without gradient.
      queue: past keys (S, K, D).
      config: the whole configuration.

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
        config.of(CMDSettings).neighbours,
        method.teacher_temperature,
        method.student_temperature,
    )
    metrics["loss"] = nce.sum() + config.of(CMDSettings).weight * metrics["distillation"]
    return metrics["loss"], metrics


def mutual_distillation(
    teacher: jax.Array,
    student: jax.Array,
    neighbours: int,
    teacher_temperature: float,
    student_temperature: float,
) -> jax.Array:
    """Σ_{a≠b} KL(P_a ‖ Q_b), mean over the batch.

    P_a is the softmax of the similarities of a's key to its nearest keys in a's queue, Q_b that of
    b's query to the keys at the same positions of b's queue.

    Args:
      teacher, student: cosine similarities of the keys and of the queries to the queues (S, N, K).
      neighbours: number of nearest keys.
      teacher_temperature, student_temperature: divide the similarities before the softmax.
    """
    # Summed over the pairs of streams and averaged over the batch, as in the CMD paper.  Only the
    # encoder and the augmentation, which are PCM³'s, differ from that paper.
    nearest, positions = lax.top_k(teacher, neighbours)
    divergences = (
        losses.similarity_kl(
            nearest[a],
            jnp.take_along_axis(student[b], positions[a], axis=-1),
            teacher_temperature,
            student_temperature,
        )
        for a, b in itertools.permutations(range(len(teacher)), 2)
    )
    return sum(divergences, jnp.float32(0))


class CMD(Method):
    """CMD, with the encoder and the augmentation of PCM³."""

    name = "cmd"
    settings = {"cmd": CMDSettings}
    every_stream = True

    build_model = staticmethod(branch_model)
    create_state = staticmethod(create_state)
    step = staticmethod(cmd_step)

    def check(self, config: Config) -> None:
        neighbours, queue_size = config.of(CMDSettings).neighbours, config.method.queue_size
        require(
            neighbours <= queue_size,
            f"config.cmd.neighbours is {neighbours}, but must be at most "
            f"config.method.queue_size, which is {queue_size}.",
        )

    def step_flops(self, config: Config) -> int:
        """FLOPs of three MoCo branches without prediction, plus the teachers' logits."""
        branch = config.copy()
        branch.method.update(positives=("intra",), masked_prediction=False, kl_weight=1.0)
        return 3 * PCM3Method().step_flops(branch)

    def negatives(self, config: Config) -> int:
        return config.method.queue_size

    def loadable(self, tree: dict[str, Any]) -> dict[str, Any]:
        parts = ("params", "batch_stats")
        return {name: {"encoder": tree[name]["encoder"]} for name in parts}

    def encoder_of(self, tree: Any, config: Config) -> Any:
        return select_stream(tree, config.views.stream)
