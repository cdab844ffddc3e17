"""Optimizers, their learning-rate schedules, and what a recipe becomes with a larger batch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from pcm3_jax.settings import Config, Training


def build_optimizer(settings: Training, steps_per_epoch: int) -> optax.GradientTransformation:
    """The optimizer of one training, of pretraining (§4.2) or of a downstream task.

    "sgd" is the paper's, with momentum and the decay coupled, that is, added to the gradient.
    "adamw" learns faster in short runs of small networks.  "lars" is for large batches: it
    scales each kernel's step to the kernel's own length (You et al. 2017), and neither scales
    nor decays biases, BatchNorm and prompts; the others decay every parameter.
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
    """Which leaves are matrices that multiply."""
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
    # From the first step on, which a rate of zero would waste.
    return lambda step: decayed(step) * jnp.minimum(1.0, (step + 1) / warmup)


def scaled_to_batch(config: Config) -> Config:
    """A copy whose recipe, written for ``optimizer.reference_batch_size``, suits its batch.

    With κ = batch / reference, one step takes the place of κ steps:

    * learning rate × κ (Goyal et al. 2017), to be warmed up;
    * key momentum to the power κ (Busbridge et al. 2023), so that the key encoder follows
      as fast per sample;
    * queue as it is, since per sample its keys then age as before, but never smaller than the
      batch.

    Without a reference (0) the copy has the numbers as they are.
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
