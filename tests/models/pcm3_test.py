"""The network's settings: which parameters exist, and where gradients flow."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pcm3_jax.data.skeleton import flatten_frames
from pcm3_jax.methods import pcm3
from pcm3_jax.methods.optimizer import build_optimizer
from pcm3_jax.methods.state import build_model, create_state
from pcm3_jax.models.pcm3 import PCM3, Prompts
from pcm3_jax.settings import POSITIVES
from tests import restatement


def filled(config, seed=0):
    """A state of random values, drawn by NumPy because compiling the initialiser is slow."""
    model, optimizer = build_model(config), build_optimizer(config.optimizer, 10)
    shapes = jax.eval_shape(lambda: create_state(model, optimizer, config))
    rng = np.random.default_rng(seed)
    draw = lambda x: jnp.asarray(rng.uniform(-0.5, 0.5, x.shape), x.dtype)  # noqa: E731
    state = jax.tree.map(draw, shapes.replace(opt_state=()))
    positive = lambda tree: jax.tree.map(lambda x: jnp.abs(x) + 0.5, tree)  # noqa: E731
    return model, state.replace(batch_stats=positive(state.batch_stats))


def gradients(config, views, offsets):
    """Gradients of the loss, and of the predicted view's contrast only."""
    model, state = filled(config)
    keys = restatement.unit(np.random.default_rng(1).normal(size=(4, 5))).astype(np.float32)
    teachers = dict.fromkeys(POSITIVES, keys)

    def loss(params, only_predict):
        whole, (metrics, _) = pcm3.pretrain_loss(
            params, state, views, offsets, teachers, model, config.method
        )
        return jnp.where(only_predict, metrics["nce_predict"], whole)

    # Both share one compilation.
    gradient = jax.jit(jax.grad(loss))
    return jax.device_get((gradient(state.params, False), gradient(state.params, True)))


def largest(tree) -> float:
    return max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


FIVE = [*(f"domain_{name}" for name in POSITIVES), "task_predict"]


@pytest.mark.parametrize("placement", ["before_norm", "after_norm"])
def test_prompts_have_gradients_only_where_no_norm_follows(placement, small_config, random_views):
    small_config.method.prompt_placement = placement
    whole, predict = gradients(small_config, *random_views(small_config))
    scale = largest(whole)
    for name in FIVE:
        size = largest(whole["prompts"][name])
        if placement == "before_norm":
            # BatchNorm subtracts them exactly; float32 rounding remains.
            assert size < 1e-5 * scale, name
        else:
            assert size > 1e-3 * scale, name
    assert largest(whole["prompts"]["task_contrast"]) > 1e-3 * scale
    # The contrast on the predicted view reaches the decoder ...
    assert largest(predict["decoder"]) > 1e-3 * largest(predict)
    if placement == "after_norm":
        # ... and its prompt, but not the masked view's encoder pass, as the gradient of that
        # pass's prompt shows.
        assert largest(predict["prompts"]["task_predict"]) > 1e-3 * largest(predict)
        assert largest(predict["prompts"]["domain_mask"]) == 0
        assert largest(predict["prompts"]["domain_predict"]) > 1e-3 * largest(predict)


def test_without_guidance_no_contrastive_gradient_reaches_the_decoder(small_config, random_views):
    small_config.method.prompt_placement = "after_norm"
    small_config.method.contrast_guides_decoder = False
    whole, predict = gradients(small_config, *random_views(small_config))
    assert largest(predict["decoder"]) == 0
    assert largest(predict["prompts"]["task_predict"]) == 0
    assert largest(predict["prompts"]["domain_mask"]) == 0
    assert largest(predict["encoder"]) > 0
    # The masked loss still trains the decoder.
    assert largest(whole["decoder"]) > 0


def names_of(config) -> set[str]:
    params = dict(filled(config)[1].params)
    prompts = params.pop("prompts", {})
    return {*params, *prompts}


def test_disabled_parts_have_no_parameters(small_config):
    domain = {f"domain_{name}" for name in POSITIVES}
    task = {"task_contrast", "task_predict"}
    networks = {"encoder", "projector", "decoder"}
    method = small_config.method
    assert names_of(small_config) == networks | domain | task
    method.domain_prompts = False
    assert names_of(small_config) == networks | task
    method.task_prompts = False
    assert names_of(small_config) == networks
    method.masked_prediction = False
    method.positives = ("intra",)
    assert names_of(small_config) == {"encoder", "projector"}


def test_task_prompts_use_the_same_channels_of_both_directions():
    prompts = Prompts(width=2, domain=False, task=True)
    prompt = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    variables = {"params": {"task_contrast": prompt, "task_predict": -prompt}}
    for offset in range(5):
        for name, sign in (("contrast", 1), ("predict", -1)):
            placed = prompts.apply(variables, name, offset, 6, method=Prompts.of_task)
            expected = restatement.prompt_on_channels(np.zeros(12), sign * prompt, offset)
            np.testing.assert_array_equal(placed, expected)


@pytest.mark.parametrize("recurrence", ["causal", "bidirectional"])
def test_embed_needs_only_the_encoder(recurrence, small_config, random_views):
    """Evaluation drops prompts, projector and decoder, and uses running statistics (§3.4)."""
    small_config.model.recurrence = recurrence
    model, state = filled(small_config)
    poses = random_views(small_config)[0].query.intra
    variables = {
        "params": {"encoder": state.params["encoder"]},
        "batch_stats": {"encoder": state.batch_stats["encoder"]},
    }
    embed = jax.jit(functools.partial(model.apply, method=PCM3.embed))
    features = embed(variables, poses)
    assert features.shape == (4, 12) and features.dtype == jnp.float32
    encode = functools.partial(model.apply, method=lambda m, x: m.encoder(x))
    per_frame = jax.jit(encode)(variables, flatten_frames(poses))
    first, last = np.asarray(per_frame[0]), np.asarray(per_frame[-1])
    second = last if recurrence == "causal" else first
    expected = np.concatenate([last[:, :6], second[:, 6:]], 1)
    # The same operations, compiled twice.
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-6)
    # A single sequence has the same features.
    alone = embed(variables, poses[1:2])
    np.testing.assert_allclose(alone[0], features[1], rtol=0, atol=1e-6)


def test_bfloat16_keeps_statistics_and_outputs_in_float32(small_config, random_views):
    small_config.model.dtype = "bfloat16"
    views, offsets = random_views(small_config)
    model, state = filled(small_config)

    def apply(model):
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        return model.apply(
            variables, views.query, offsets, method=PCM3.query, mutable=["batch_stats"]
        )

    outputs, updated = jax.jit(lambda: apply(model))()
    assert {leaf.dtype for leaf in jax.tree.leaves((outputs, updated, state.params))} == {
        jnp.dtype("float32")
    }
    half, full = outputs, jax.jit(lambda: apply(model.clone(dtype=jnp.float32)))()[0]
    # Unit vectors and coordinates near one, from products rounded to 2^-8 relative.
    for name in POSITIVES:
        np.testing.assert_allclose(half.embeddings[name], full.embeddings[name], rtol=0, atol=0.05)
    np.testing.assert_allclose(half.reconstruction, full.reconstruction, rtol=0, atol=0.05)
    assert (half.embeddings["intra"] != full.embeddings["intra"]).any()
