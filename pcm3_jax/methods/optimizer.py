"""Optimizers, learning-rate schedules, and scaling of a recipe to another batch size."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from pcm3_jax.settings import Config, Training


def build_optimizer(settings: Training, steps_per_epoch: int) -> optax.GradientTransformation:
    """The optimizer for pretraining (§4.2) or a downstream task.

    "sgd" is the paper's: momentum, and coupled weight decay (added to the gradient).  "adamw"
    learns faster in short runs of small networks.  "lars" is for large batches: it scales each
    kernel's update to the kernel's norm (You et al. 2017), and neither scales nor decays biases,
    BatchNorm parameters and prompts.  "sgd" and "adamw" decay every parameter.
    """
    rate = learning_rate_schedule(settings, steps_per_epoch)
    if settings.name == "adamw":
        return optax.adamw(rate, b1=settings.momentum, weight_decay=settings.weight_decay)
    if settings.name == "lars":
        return optax.lars(
            rate,
            weight_decay=settings.weight_decay,
            weight_decay_mask=_kernels,
            trust_ratio_mask=_kernels,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
        )
    return optax.chain(
        optax.add_decayed_weights(settings.weight_decay),
        optax.sgd(rate, momentum=settings.momentum, nesterov=settings.nesterov),
    )


def _kernels(params: Any) -> Any:
    """Mask of the leaves that are matmul kernels."""
    return jax.tree_util.tree_map_with_path(lambda path, _: "kernel" in path[-1].key, params)


def learning_rate_schedule(settings: Training, steps_per_epoch: int) -> optax.Schedule:
    """A linear rise over ``warmup_epochs``, then steps down after each of ``decay_epochs``."""
    decayed = optax.piecewise_constant_schedule(
        settings.learning_rate,
        {epoch * steps_per_epoch: settings.decay_factor for epoch in settings.decay_epochs},
    )
    warmup = settings.warmup_epochs * steps_per_epoch
    if not warmup:
        return decayed
    # The ramp starts above zero, because a first step with rate zero would be wasted.
    return lambda step: decayed(step) * jnp.minimum(1.0, (step + 1) / warmup)


def scaled_to_batch(config: Config) -> Config:
    """A copy with the recipe scaled from ``optimizer.reference_batch_size`` to the batch size.

    With κ = batch / reference, one step replaces κ steps:

    * learning rate × κ (Goyal et al. 2017); use it with warm-up;
    * key momentum to the power κ (Busbridge et al. 2023), so that the key encoder moves at the
      same rate per sample;
    * queue size unchanged, so that a key stays in the queue for as many samples as before, but at
      least the batch size.

    If the reference is 0, nothing is scaled.
    """
    config = config.copy()
    optimizer, method = config.optimizer, config.method
    if optimizer.reference_batch_size:
        ratio = optimizer.batch_size / optimizer.reference_batch_size
        optimizer.learning_rate *= ratio
        method.key_momentum **= ratio
        method.queue_size = max(method.queue_size, optimizer.batch_size)
        optimizer.reference_batch_size = 0
    return config
