"""One step: the losses of each ablation, and losses and gradients that are not finite."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pcm3_jax.data.batch import Batch, Clips
from pcm3_jax.methods import pcm3
from pcm3_jax.methods.optimizer import build_optimizer
from pcm3_jax.methods.state import TrainState, build_model, create_state, key_part
from pcm3_jax.settings import POSITIVES
from tests import restatement


def start(config, axis_name=None):
    """(model, optimizer, state), drawn by NumPy because compiling the initialiser is slow."""
    model, optimizer = build_model(config, axis_name), build_optimizer(config.optimizer, 10)
    shapes = jax.eval_shape(lambda: create_state(model, optimizer, config))
    rng = np.random.default_rng(0)
    draw = lambda x: jnp.asarray(rng.uniform(-0.5, 0.5, x.shape), x.dtype)  # noqa: E731
    params = jax.tree.map(draw, shapes.params)
    ones = functools.partial(jax.tree.map, lambda x: jnp.ones(x.shape, x.dtype))
    queue = restatement.unit(rng.normal(size=shapes.queue.shape))
    state = TrainState(
        step=jnp.int32(0),
        finite=jnp.bool_(True),
        params=params,
        batch_stats=ones(shapes.batch_stats),
        key_params=jax.tree.map(draw, shapes.key_params),
        key_batch_stats=ones(shapes.key_batch_stats),
        queue=jnp.float32(queue),
        queue_pointer=jnp.int32(9),
        opt_state=optimizer.init(params),
    )
    return model, optimizer, state


PROGRAMS = {}


def compiled(config):
    """(update, state); tests of equal configurations share one compilation."""
    model, optimizer, state = start(config)
    update = functools.partial(pcm3.update, model=model, optimizer=optimizer, config=config)
    return PROGRAMS.setdefault(config.to_json(), jax.jit(update)), state


CONTRAST = ["nce_" + name for name in POSITIVES]
# Each row: what differs from PCM³ as published, and the terms that its loss then has.
ABLATIONS = {
    "published": ({}, [*CONTRAST, "kl", "mask_mse"]),
    "without the connecting views": (
        {"positives": ("intra", "inter")},
        ["nce_intra", "nce_inter", "kl", "mask_mse"],
    ),
    "without intra and prediction": (
        {"positives": ("mask", "inter"), "masked_prediction": False},
        ["nce_mask", "nce_inter", "kl"],
    ),
    "contrast only": (
        {"positives": ("intra", "inter"), "masked_prediction": False},
        ["nce_intra", "nce_inter", "kl"],
    ),
    "masked prediction only": ({"positives": ()}, ["mask_mse"]),
    # As the bone and motion streams are trained, except for the prompts.
    "without kl and guidance": (
        {"kl_weight": 0.0, "contrast_guides_decoder": False},
        [*CONTRAST, "mask_mse"],
    ),
    "prompts that act": ({"prompt_placement": "after_norm"}, [*CONTRAST, "kl", "mask_mse"]),
    "moco baseline": (
        {
            "positives": ("intra",),
            "masked_prediction": False,
            "domain_prompts": False,
            "task_prompts": False,
            "kl_weight": 0.0,
        },
        ["nce_intra"],
    ),
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_each_ablation_has_its_losses_and_updates_every_parameter(name, small_config, random_views):
    changes, terms = ABLATIONS[name]
    small_config.method.update(changes)
    update, state = compiled(small_config)
    after, metrics = update(state, *random_views(small_config))
    assert metrics.keys() == {*terms, "loss", "gradient_norm"}
    assert all(np.isfinite(value) for value in metrics.values())
    weights = {"kl": small_config.method.kl_weight, "mask_mse": small_config.method.mask_weight}
    total = sum(weights.get(term, 1.0) * float(metrics[term]) for term in terms)
    # A float32 sum of six terms.
    assert metrics["loss"] == pytest.approx(total, rel=1e-6)
    assert metrics["gradient_norm"] > 0
    assert after.finite and after.step == 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
    # Every parameter moves, if only by weight decay.
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), after.params, state.params)
    assert all(jax.tree.leaves(moved))
    contrast = bool(small_config.method.positives)
    assert after.queue_pointer == ((9 + 4) % 11 if contrast else 9)
    # Slots 9, 10, 0 and 1 take the four keys.
    replaced = (after.queue != state.queue).any(1)
    assert np.flatnonzero(replaced).tolist() == ([0, 1, 9, 10] if contrast else [])
    # The key encoder moves 0.001 of the way to the query encoder's parameters.
    for key, query, before in zip(
        jax.tree.leaves(after.key_params),
        jax.tree.leaves(key_part(state.params)),
        jax.tree.leaves(state.key_params),
        strict=True,
    ):
        np.testing.assert_allclose(key, 0.999 * before + 0.001 * query, rtol=0, atol=1e-6)


def test_a_loss_that_is_not_finite_leaves_the_state_unchanged(small_config, random_views):
    update, state = compiled(small_config)
    views, offsets = random_views(small_config)
    good, _ = update(state, views, offsets)
    broken = views.replace(
        query=views.query.replace(target=np.full_like(views.query.target, np.nan))
    )
    bad, metrics = update(good, broken, offsets)
    assert not np.isfinite(metrics["loss"])
    assert not bad.finite and good.finite
    chex.assert_trees_all_equal(bad.replace(finite=good.finite), good)
    # Later steps leave it unchanged, too, so that the failure can be reproduced.
    again, metrics = update(bad, views, offsets)
    assert np.isfinite(metrics["loss"])
    assert not again.finite
    chex.assert_trees_all_equal(again, bad)


def test_a_gradient_that_is_not_finite_leaves_the_state_unchanged(small_config, random_views):
    """The norm of a zero vector has a finite value and an infinite gradient."""
    small_config.method.update(positives=("intra",), masked_prediction=False, kl_weight=0.0)
    small_config.method.update(domain_prompts=False, task_prompts=False)
    update, state = compiled(small_config)
    state.params["projector"]["outer"] = jax.tree.map(
        jnp.zeros_like, state.params["projector"]["outer"]
    )
    after, metrics = update(state, *random_views(small_config))
    assert np.isfinite(metrics["loss"])
    assert not np.isfinite(metrics["gradient_norm"])
    assert not after.finite
    chex.assert_trees_all_equal(after.replace(finite=state.finite), state)


def test_a_steps_draws_depend_only_on_seed_and_step(small_config):
    small_config.method.update(positives=("intra",), masked_prediction=False, kl_weight=0.0)
    model, optimizer, state = start(small_config)
    frames = np.random.default_rng(0).normal(size=(120, 2, 25, 3)).astype(np.float32)
    clips = Clips(np.array([0, 30, 60, 90]), np.full(4, 30))
    partner = np.array([1, 2, 3, 0])
    batch = Batch(clips, Clips(clips.start[partner], clips.length), np.arange(4), partner)

    def seeded(seed, state):
        # Traced, which the configuration's types do not allow, so that all share a compilation.
        small_config.seed = seed
        return pcm3.pretrain_step(
            state, jnp.asarray(frames), batch, model=model, optimizer=optimizer,
            config=small_config,
        )  # fmt: skip

    step = jax.jit(seeded)
    after, metrics = step(0, state)
    again, _ = step(0, state)
    chex.assert_trees_all_equal(after, again)
    assert after.step == 1 and after.finite
    # The same parameters one step later see other views.
    later, _ = step(0, state.replace(step=jnp.int32(1)))
    assert (later.queue != after.queue).any() and later.step == 2
    other, _ = step(1, state)
    assert (other.queue != after.queue).any()
    assert metrics["loss"] == metrics["nce_intra"]
