"""The losses of §3: InfoNCE, similarity KL and masked MSE; all in float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def info_nce(similarity: jax.Array, positive: jax.Array, temperature: float) -> jax.Array:
    """InfoNCE with the positive against the queue (Eq. 1, 2), mean over the batch.

    Args:
      similarity: z · m for every key of the queue (N, K).
      positive: z · z' (N,).
      temperature: τ.
    """
    # log(exp(p) + Σ exp(n)) - p, without the difference of two large, nearly equal numbers
    # that is left of it once the positive dominates.
    negatives = jax.nn.logsumexp(similarity / temperature, axis=-1)
    return jax.nn.softplus(negatives - positive / temperature).mean()


def similarity_kl(
    teacher: jax.Array,
    student: jax.Array,
    teacher_temperature: float,
    student_temperature: float,
) -> jax.Array:
    """KL(teacher ‖ student) over the queue, mean over the batch.

    Eq. 3 less the teacher's entropy, which no gradient sees.

    Args:
      teacher, student: z' · m and z · m for every key of the queue (N, K).
    """
    log_p = jax.nn.log_softmax(teacher / teacher_temperature)
    log_q = jax.nn.log_softmax(student / student_temperature)
    return (jnp.exp(log_p) * (log_p - log_q)).sum(-1).mean()


def masked_mse(target: jax.Array, prediction: jax.Array, visible: jax.Array) -> jax.Array:
    """Mean squared error over masked coordinates (Eq. 4).

    Args:
      target, prediction: poses (N, T, M, V, C).
      visible: (T, M, V), 0 where masked.
    """
    masked = (1 - visible)[..., None]
    error = (jnp.square(prediction - target) * masked).sum()
    return error / (masked.sum() * target.shape[0] * target.shape[-1])
