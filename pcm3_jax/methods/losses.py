"""The losses of §3, in float32: InfoNCE, KL divergence between similarities, and masked MSE."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def info_nce(similarity: jax.Array, positive: jax.Array, temperature: float) -> jax.Array:
    """InfoNCE of one positive against the queue (Eq. 1, 2).

    Args:
      similarity: z · m, cosine similarity of each query and each key of the queue (N, K).
      positive: z · z', cosine similarity of each query and its own key (N,).
      temperature: τ.

    Returns:
      -log(exp(p) / (exp(p) + Σ exp(n))) with logits p and n, similarities over τ; mean over N.

    Example:
      loss = info_nce(z @ queue.T, (z * keys).sum(-1), temperature=0.07)
    """
    logits = similarity / temperature
    # The loss is logsumexp([p, n]) - p = softplus(logsumexp(n) - p).  The first form cancels
    # catastrophically once the positive dominates, where its two terms are almost equal; the
    # second keeps full relative precision.
    negatives = jax.nn.logsumexp(logits, axis=-1)
    return jax.nn.softplus(negatives - positive / temperature).mean()


def similarity_kl(
    teacher: jax.Array,
    student: jax.Array,
    teacher_temperature: float,
    student_temperature: float,
) -> jax.Array:
    """KL(teacher ‖ student) between softmaxes of similarities to the queue; mean over N.

    This is the cross-entropy of Eq. 3 minus the teacher's entropy, which has no gradient.

    Args:
      teacher, student: z' · m and z · m, cosine similarities of the key and of the query to each
        key of the queue (N, K).
      teacher_temperature, student_temperature: divide the similarities before the softmax.
    """
    log_p = jax.nn.log_softmax(teacher / teacher_temperature)
    log_q = jax.nn.log_softmax(student / student_temperature)
    return (jnp.exp(log_p) * (log_p - log_q)).sum(-1).mean()


def masked_mse(target: jax.Array, prediction: jax.Array, visible: jax.Array) -> jax.Array:
    """Mean squared error over the masked coordinates (Eq. 4).

    Args:
      target, prediction: poses (N, T, M, V, C).
      visible: (T, M, V) floats, 0 where masked; at least one entry must be masked.
    """
    masked = (1 - visible)[..., None]
    error = (jnp.square(prediction - target) * masked).sum()
    return error / (masked.sum() * target.shape[0] * target.shape[-1])
