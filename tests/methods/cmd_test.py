"""CMD: its loss, its queues, and runs up to linear evaluation."""

import functools
import json
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pcm3_jax
from pcm3_jax.config import default_config, validate
from pcm3_jax.data.batch import Batch, Clips
from pcm3_jax.data.skeleton import STREAM_ORDER, STREAMS, select_stream
from pcm3_jax.errors import UserError
from pcm3_jax.methods import cmd
from pcm3_jax.methods.optimizer import build_optimizer
from pcm3_jax.models.pcm3 import PCM3, PromptOffsets
from pcm3_jax.tasks.common import encoder_variables
from pcm3_jax.tasks.knn import Retrieval
from pcm3_jax.tasks.linear_probe import LinearProbe
from tests import restatement
from tests.running import last_state, metrics
from tests.runtime.parallel_test import assert_close_runs

NEIGHBOURS = 7  # of the small configuration's 11 keys


@pytest.fixture
def cmd_config(small_config):
    small_config.method.name = "cmd"
    small_config.cmd.update(neighbours=NEIGHBOURS, weight=0.5)
    return small_config


@pytest.fixture
def start(cmd_config):
    """(update, the state before the first step, two views)."""
    model, optimizer = cmd.branch_model(cmd_config), build_optimizer(cmd_config.optimizer, 10)
    state = jax.jit(lambda: cmd.create_state(model, optimizer, cmd_config))()
    update = functools.partial(cmd.update, model=model, optimizer=optimizer, config=cmd_config)
    views = np.random.default_rng(0).normal(size=(2, 4, 16, 2, 25, 3)).astype(np.float32)

    def update_on(state, *views):
        return update(state, *(cmd.every_stream(v, np.ones(v.shape[:-1], bool)) for v in views))

    return jax.jit(update_on), state, views


def random_embeddings(seed: int = 0):
    """(z, keys, queue), each of three streams."""
    rng = np.random.default_rng(seed)
    return [restatement.unit(rng.normal(size=(3, rows, 5))) for rows in (4, 4, 11)]


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def restated_loss(z, keys, queue, weight: float) -> tuple[list[float], float, float]:
    """InfoNCE of each stream, the sum over teachers and students, and the loss."""
    nce = [restatement.info_nce(z[s], keys[s], queue[s], 0.07)[0] for s in range(3)]
    total = 0.0
    for sample in range(4):
        for teacher in range(3):
            taught = queue[teacher] @ keys[teacher, sample]
            nearest = np.argsort(-taught)[:NEIGHBOURS]
            p = softmax(taught[nearest] / 0.05)
            for student in range(3):
                if student == teacher:
                    continue
                q = softmax(queue[student][nearest] @ z[student, sample] / 0.1)
                total += (p * np.log(p / q)).sum()
    return nce, total / 4, sum(nce) + weight * total / 4


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_loss_matches_the_restatement(cmd_config, weight):
    cmd_config.cmd.weight = weight
    z, keys, queue = random_embeddings()
    nce, distillation, total = restated_loss(z, keys, queue, weight)
    loss, terms = cmd.cmd_loss(*map(jnp.float32, (z, keys, queue)), cmd_config)
    # Float32 sums of 11 terms.
    for name, value in zip(STREAM_ORDER, nce, strict=True):
        assert terms[f"nce_{name}"] == pytest.approx(value, rel=1e-5)
    assert terms["distillation"] == pytest.approx(distillation, rel=1e-5)
    assert loss == terms["loss"] == pytest.approx(total, rel=1e-5)


def test_distillation_is_zero_where_student_and_teacher_agree():
    """With as many neighbours as keys, the whole queue counts."""
    taught = jnp.float32(np.random.default_rng(0).uniform(-1, 1, (1, 4, 11))).repeat(3, axis=0)
    # With equal temperatures, zero up to rounding.
    assert abs(cmd.mutual_distillation(taught, taught, 11, 0.1, 0.1)) < 1e-6
    assert cmd.mutual_distillation(taught, -taught, 11, 0.1, 0.1) > 1


def test_branches_are_initialised_differently(start):
    _, state, _ = start
    assert jax.tree.leaves(state.key_params)[0].shape[0] == 3
    for leaf in (state.queue, state.params["projector"]["outer"]["kernel"]):
        assert len({np.asarray(branch).tobytes() for branch in leaf}) == 3
    assert state.step.shape == state.queue_pointer.shape == state.finite.shape == ()
    assert state.params.keys() == {"encoder", "projector"}


def test_a_step_updates_every_branch(start):
    update, state, views = start
    after, terms = update(state, *views)
    assert terms.keys() == {*(f"nce_{s}" for s in STREAM_ORDER), "distillation", "loss",
                            "gradient_norm"}  # fmt: skip
    assert after.finite and after.step == 1 and terms["gradient_norm"] > 0
    for name in ("params", "batch_stats", "key_batch_stats"):
        moved = jax.tree.map(
            lambda a, b: np.any(a != b, axis=range(1, a.ndim)).all(),
            getattr(after, name), getattr(state, name),
        )  # fmt: skip
        assert all(jax.tree.leaves(moved))


def test_queues_hold_the_same_samples_at_the_same_positions(start, cmd_config):
    """Each branch's keys are enqueued at the pointer, and match that branch encoded alone."""
    update, state, views = start
    model = cmd.branch_model(cmd_config)
    offsets = PromptOffsets(*[0] * 6)
    encode = jax.jit(
        lambda params, stats, poses: model.apply(
            {"params": params, "batch_stats": stats}, poses, offsets, method=PCM3.key,
            mutable=["batch_stats"],
        )[0]
    )  # fmt: skip
    expected = np.array(state.queue)
    for step in range(3):
        after, _ = update(state, *views)
        for index, stream in enumerate(STREAM_ORDER):
            keys = encode(
                select_stream(after.key_params, stream),
                select_stream(state.key_batch_stats, stream),
                STREAMS[stream](jnp.asarray(views[1])),
            )
            for sample in range(4):
                expected[index, (4 * step + sample) % 11] = keys[sample]
        # Unit vectors; a batched product may sum in another order.
        np.testing.assert_allclose(after.queue, expected, rtol=0, atol=1e-5)
        assert after.queue_pointer == 4 * (step + 1) % 11
        state, views = after, views[:, ::-1]


def test_a_step_ignores_the_configured_stream(cmd_config, monkeypatch):
    clips = Clips(np.array([0, 30, 60, 90]), np.full(4, 30))
    batch = Batch(clips, clips, np.arange(4), np.arange(4))
    frames = np.random.default_rng(0).normal(size=(120, 2, 25, 3)).astype(np.float32)
    # Returns the arguments of the update instead of updating.
    monkeypatch.setattr(cmd, "update", lambda _, query, key, **__: (query, key))
    state = types.SimpleNamespace(step=0)

    def drawn(stream):
        cmd_config.views.stream = stream
        step = functools.partial(cmd.cmd_step, model=None, optimizer=None, config=cmd_config)
        return jax.jit(lambda frames: step(state, frames, batch))(frames)

    query, key = drawn("joint")
    assert query.shape == key.shape == (3, 4, 16, 2, 25, 3)
    assert (query != key).any()
    chex.assert_trees_all_equal((query, key), drawn("motion"))


def test_more_neighbours_than_keys_are_refused():
    config = default_config()
    config.method.queue_size = 100
    validate(config)
    config.method.name = "cmd"
    with pytest.raises(UserError, match=r"neighbours is 8192, .* at most .*queue_size, .* is 100"):
        validate(config)


def test_no_model_to_start_from_is_taken():
    config = default_config()
    config.method.name, config.encoder = "cmd", "base"
    with pytest.raises(UserError, match="'base', but method 'cmd' trains an encoder for each"):
        validate(config)


RUN = ("--config.method.name=cmd", "--config.cmd.neighbours=32", "--config.optimizer.epochs=2")


@pytest.fixture(scope="module")
def cmd_run(program, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("cmd") / "run"
    code, _, err = program.run(workdir, *RUN)
    assert (code, err) == (0, "")
    return workdir


def test_two_devices_match_one(program, cmd_run, tmp_path):
    code, _, err = program.run(tmp_path, *RUN, devices=2)
    assert (code, err) == (0, "")
    assert_close_runs(cmd_run, tmp_path)
    assert len(metrics(cmd_run)) == 8 + 1  # steps, and one evaluation at the end


@pytest.mark.parametrize("stream", STREAM_ORDER)
def test_every_branch_can_be_evaluated(cmd_run, run_config, tmp_path, stream):
    run_config.encoder = str(cmd_run)
    run_config.views.stream = stream
    results = LinearProbe().run(run_config, tmp_path)
    assert 0 < results["top1"] <= results["top5"] <= 1
    knn = Retrieval().run(run_config, tmp_path)["knn_accuracy"]
    assert 0 < knn <= 1
    if stream == "joint":
        # The branch that the pretraining run evaluated.
        last = json.loads((cmd_run / "results.json").read_text())
        assert last == {"task": "pretrain", "steps": 8, "knn_accuracy": knn}


def test_the_configured_streams_encoder_is_loaded(cmd_run, run_config):
    saved = last_state(cmd_run)
    kernel = saved["['params']['encoder']['gru']['layer_0']['input_kernel']"]
    mean = saved["['batch_stats']['encoder']['input_norm']['mean']"]
    run_config.encoder = str(cmd_run)
    for index, stream in enumerate(STREAM_ORDER):
        run_config.views.stream = stream
        loaded = encoder_variables(run_config)
        encoder, stats = loaded["params"]["encoder"], loaded["batch_stats"]["encoder"]
        np.testing.assert_array_equal(encoder["gru"]["layer_0"]["input_kernel"], kernel[index])
        np.testing.assert_array_equal(stats["input_norm"]["mean"], mean[index])


def test_a_run_loads_as_a_model(cmd_run):
    model = pcm3_jax.load(cmd_run)
    poses = np.random.default_rng(0).normal(size=(2, 20, 2, 25, 3))
    embeddings = model.embed(poses)
    assert embeddings.shape == (2, 2 * model.config.model.hidden)
    assert np.isfinite(embeddings).all() and np.abs(embeddings[0] - embeddings[1]).max() > 1e-3
    # CMD has no decoder.
    with pytest.raises(UserError, match="decoder"):
        model.reconstruct(poses, np.ones((2, 20, 2, 25), bool))
