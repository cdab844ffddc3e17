"""The package against the authors' program: its losses, logits, gradients and states.

The tolerances came with the golden vectors and must never be loosened.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pcm3_jax.augment import augmentation, mixing
from pcm3_jax.augment.pipeline import Views, central_view
from pcm3_jax.config import default_config
from pcm3_jax.data.batch import Clips
from pcm3_jax.data.skeleton import STREAMS, part_membership
from pcm3_jax.inference import torch_layout
from pcm3_jax.methods import moco, pcm3
from pcm3_jax.methods.optimizer import build_optimizer
from pcm3_jax.methods.state import TrainState, build_model, create_state, key_part
from pcm3_jax.models.encoder import unit_length
from pcm3_jax.models.pcm3 import PCM3, PromptOffsets, QueryViews
from pcm3_jax.settings import POSITIVES
from tests import golden_vectors

# Float32 rounding over thousands of operations, here and in the program.
LOSS_TOLERANCE = 1e-5  # relative
LOGIT_TOLERANCE = 1e-5  # of a view's largest logit
GRADIENT_TOLERANCE = 1e-4  # of each tensor's largest entry
STATE_TOLERANCE = 1e-4  # of each tensor's largest entry, after three steps
# One frame is a sum of fewer terms than a loss.
RECONSTRUCTION_TOLERANCE = 1e-5  # of the largest sampled coordinate
# The packed query's rounding, 2.4e-7, and one of float32's for coordinates below 2.
MIX_TOLERANCE = 6e-7
CROP_TOLERANCE = 1e-6  # metres; coordinates are below 4

# BatchNorm cancels what these parameters add, so that their gradient is zero up to rounding.  The
# error is compared with the largest entry of the whole gradient.
TRUE_ZEROS = {
    *(f"['prompts']['domain_{name}']" for name in POSITIVES),
    "['prompts']['task_predict']",
    "['decoder']['reduce']['bias']",
}


def golden_config(prompts: bool):
    """The settings of the golden runs; the rest is as published."""
    config = default_config()
    config.model.hidden = 16
    config.model.projection = 8
    config.model.decoder_hidden = 12
    config.model.prompt_width = 4
    config.method.queue_size = 40
    if not prompts:
        config.method.domain_prompts = False
        config.method.task_prompts = False
        config.method.contrast_guides_decoder = False
        config.method.kl_weight = 0.0
    return config


@functools.cache
def programs(prompts: bool):
    """(initial state of a run, update, inspect); runs of a kind share one compilation."""
    config = golden_config(prompts)
    model, optimizer = build_model(config), build_optimizer(config.optimizer, steps_per_epoch=100)
    template = jax.eval_shape(lambda: create_state(model, optimizer, config))

    def start(run: golden_vectors.GoldenRun) -> TrainState:
        state = torch_layout.state_from_torch(run.init, template)
        state = state.replace(step=0, finite=np.bool_(True), opt_state=optimizer.init(state.params))
        return jax.tree.map(jnp.asarray, state)

    def inspect(state: TrainState, views: Views, offsets: PromptOffsets):
        """Logits, reconstruction and gradient, which a step does not return."""
        key_params = moco.update_key_params(
            state.key_params, key_part(state.params), config.method.key_momentum
        )
        keys, _ = pcm3.encode_keys(state, key_params, views, offsets, model)
        share = views.mix_share
        mixed = unit_length((1 - share) * keys + share * keys[views.partner])
        teachers = dict.fromkeys(POSITIVES, keys) | {"inter": mixed}
        outputs, _ = model.apply(
            {"params": state.params, "batch_stats": state.batch_stats},
            views.query,
            offsets,
            method=PCM3.query,
            mutable=["batch_stats"],
        )
        logits = {
            name: jnp.concatenate(
                [(z * teachers[name]).sum(-1, keepdims=True), z @ state.queue.T], axis=1
            )
            / config.method.temperature
            for name, z in outputs.embeddings.items()
        }
        gradient, _ = jax.grad(pcm3.pretrain_loss, has_aux=True)(
            state.params, state, views, offsets, teachers, model, config.method
        )
        return logits, outputs.reconstruction, gradient

    update = functools.partial(pcm3.update, model=model, optimizer=optimizer, config=config)
    # Full compiler optimisation, as in training; other tests compile without most of it.
    optimised = {
        "xla_backend_optimization_level": 3,
        "xla_llvm_disable_expensive_passes": False,
    }
    return start, jax.jit(update, compiler_options=optimised), jax.jit(inspect)


def golden_mix(step: golden_vectors.GoldenStep) -> tuple[jax.Array, jax.Array]:
    draw = mixing.Mix(
        method=["cutmix", "resizemix", "mixup"].index(step.method),
        joints=part_membership()[list(step.parts)].any(0),
        first_block=np.int32(step.start_block),
        blocks=np.int32(step.ct),
        share=np.float32(step.lam),
    )
    return mixing.mix(jnp.asarray(step.query), step.query[step.partner], draw, block_frames=4)


@dataclasses.dataclass(frozen=True)
class Replay:
    """A golden run, and the package's results for it; lists have one entry per step."""

    run: golden_vectors.GoldenRun
    metrics: list[dict[str, np.ndarray]]
    logits: list[dict[str, np.ndarray]]
    reconstructions: list[np.ndarray]
    gradient: dict
    after: TrainState


@functools.cache
def replay(name: str) -> Replay:
    """Runs the three steps of a golden run."""
    run = golden_vectors.load_step(name)
    start, update, inspect = programs(prompts=run.steps[0].prompt_offsets is not None)
    state = start(run)
    metrics, logits, reconstructions, gradients = [], [], [], []
    for step in run.steps:
        mixed, share = golden_mix(step)
        visible = np.ones(step.query.shape[1:-1], np.float32)
        visible[:, 0] = step.mask
        views = Views(
            QueryViews(step.query, step.target, visible, mixed), step.key, step.partner, share
        )
        places = np.zeros(6, int) if step.prompt_offsets is None else step.prompt_offsets
        # The golden offsets are in the order of the fields.
        offsets = PromptOffsets(*places.astype(np.int32))
        for result, results in zip(
            inspect(state, views, offsets), (logits, reconstructions, gradients), strict=True
        ):
            results.append(jax.device_get(result))
        state, step_metrics = update(state, views, offsets)
        metrics.append(jax.device_get(step_metrics))
    return Replay(run, metrics, logits, reconstructions, gradients[0], jax.device_get(state))


def by_path(tree) -> dict[str, np.ndarray]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf, np.float64) for path, leaf in leaves}


@pytest.mark.parametrize("name", golden_vectors.RUNS)
def test_losses_of_all_steps(name: str) -> None:
    replayed = replay(name)
    for i, (step, metrics) in enumerate(zip(replayed.run.steps, replayed.metrics, strict=True)):
        golden = dict(step.losses)
        if name == "noprompt":
            # Recorded by the program, but not part of this variant's loss.
            assert "kl" not in metrics
            del golden["kl"]
        assert golden.keys() == metrics.keys() - {"gradient_norm"}
        for key, value in golden.items():
            assert metrics[key] == pytest.approx(value, rel=LOSS_TOLERANCE), (i, key)


@pytest.mark.parametrize("name", golden_vectors.RUNS)
def test_logits_of_all_steps(name: str) -> None:
    replayed = replay(name)
    for step, logits in zip(replayed.run.steps, replayed.logits, strict=True):
        assert logits.keys() == step.logits.keys()
        for key, golden in step.logits.items():
            assert_close(logits[key], golden, LOGIT_TOLERANCE, key)


@pytest.mark.parametrize("name", golden_vectors.RUNS)
def test_reconstruction_of_all_steps(name: str) -> None:
    replayed = replay(name)
    for step, made in zip(replayed.run.steps, replayed.reconstructions, strict=True):
        sample = step.reconstruction
        assert_close(sample.of(made), sample.values, RECONSTRUCTION_TOLERANCE)


@pytest.mark.parametrize("name", golden_vectors.RUNS)
def test_gradients_of_the_first_step(name: str) -> None:
    replayed = replay(name)
    ours = by_path(replayed.gradient)
    golden = by_path(torch_layout.params_from_torch(replayed.run.gradients))
    assert golden.keys() == ours.keys()
    largest = max(np.abs(gradient).max() for gradient in golden.values())
    for path, gradient in golden.items():
        scale = largest if path in TRUE_ZEROS else np.abs(gradient).max()
        error = np.abs(ours[path] - gradient).max()
        assert error <= GRADIENT_TOLERANCE * scale, (path, error / scale)
    zeros = TRUE_ZEROS & golden.keys()
    assert len(zeros) == (1 if name == "noprompt" else 6)


@pytest.mark.parametrize("name", golden_vectors.RUNS)
def test_state_after_three_steps(name: str) -> None:
    replayed = replay(name)
    state = replayed.after
    assert state.step == 3 and state.finite
    golden = by_path(torch_layout.state_from_torch(replayed.run.after, state).replace(opt_state=()))
    ours = by_path(state.replace(opt_state=()))
    assert golden.keys() == ours.keys()
    for path, value in golden.items():
        assert_close(ours[path], value, STATE_TOLERANCE, path)
    assert state.queue_pointer == replayed.run.after["queue_ptr"].item() == 15
    # Entries that three steps of five keys do not reach are unchanged.
    np.testing.assert_array_equal(state.queue[15:], replayed.run.init["queue"].T[15:])


@pytest.mark.parametrize("name", golden_vectors.RUNS)
def test_mixing_of_all_steps(name: str) -> None:
    for step in golden_vectors.load_step(name).steps:
        mixed, share = golden_mix(step)
        assert share == pytest.approx(step.lam, abs=1e-7)
        np.testing.assert_allclose(
            step.mixed.of(mixed), step.mixed.values, rtol=0, atol=MIX_TOLERANCE
        )


def test_crops() -> None:
    train, _ = golden_vectors.load_crops()
    for crop in train:
        view = augmentation.crop_resize(jnp.asarray(crop.sequence), crop.start, crop.length, 64)
        np.testing.assert_allclose(view, crop.view, rtol=0, atol=CROP_TOLERANCE)


def test_evaluation_crops() -> None:
    _, evaluation = golden_vectors.load_crops()
    for crop in evaluation:
        # Between other frames, as in packed memory.
        others = np.full((7, *crop.sequence.shape[1:]), 9.0, np.float32)
        frames = jnp.concatenate([others, crop.sequence, others])
        clips = Clips(jnp.array([7]), jnp.array([len(crop.sequence)]))
        view = central_view(frames, clips, default_config().views)
        np.testing.assert_allclose(view[0], crop.view, rtol=0, atol=CROP_TOLERANCE)


@pytest.mark.parametrize("stream", STREAMS)
def test_streams(stream: str) -> None:
    golden = golden_vectors.load_streams()
    made = STREAMS[stream](jnp.asarray(golden["joint"]))
    # One subtraction of coordinates below 4.
    np.testing.assert_allclose(made, golden[stream], rtol=0, atol=1e-6)


def assert_close(made, golden, tolerance: float, name: str = "") -> None:
    """Asserts that errors are below ``tolerance`` times the largest golden entry."""
    largest = np.abs(golden).max()
    np.testing.assert_allclose(made, golden, rtol=0, atol=tolerance * largest, err_msg=name)
