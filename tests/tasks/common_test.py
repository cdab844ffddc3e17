"""The splits and the encoder of an evaluation, and features of whole splits."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm3_jax import convert
from pcm3_jax.augment.pipeline import central_view
from pcm3_jax.data import recordings
from pcm3_jax.data.batch import Clips
from pcm3_jax.errors import UserError
from pcm3_jax.methods.state import build_model, init_variables
from pcm3_jax.models.pcm3 import PCM3
from pcm3_jax.runtime.parallel import Devices
from pcm3_jax.tasks.common import (
    Embedder,
    duration,
    encoder,
    encoder_embedding,
    encoder_variables,
    read_splits,
    top_k_accuracy,
)
from pcm3_jax.tasks.detection import Detection
from pcm3_jax.tasks.knn import Retrieval
from tfds_builders import build

NAME = "synthetic_skeletons/n64x32"
# float32 sums in another order, for another batch size.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def split(data_dir, devices):
    return recordings.read(NAME, str(data_dir), "test", 300, devices, resident=True)


@pytest.fixture(scope="module")
def variables(program):
    params, batch_stats = init_variables(build_model(program.config()), jax.random.key(0))
    return {"params": params, "batch_stats": batch_stats}


@pytest.fixture(scope="module")
def features(program, variables, split, devices):
    """Central features, and those of random crops, in batches of 7."""
    config = program.config()
    config.eval.batch_size = 7
    embedder = Embedder(encoder_embedding(build_model(config), config), devices, config)
    return embedder.central(variables, split), embedder.random(variables, split, 3)


def test_central_features_are_those_of_each_sequence_alone(run_config, variables, split, features):
    central, _ = features
    assert central.shape == (32, 2 * run_config.model.hidden)

    @jax.jit
    def alone(start, length):
        clip = Clips(start[None], length[None])
        poses = central_view(split.frames, clip, run_config.views)
        return build_model(run_config).apply(variables, poses, method=PCM3.embed)[0]

    for i in (0, 6, 7, 31):
        expected = alone(split.start[i], split.length[i])
        np.testing.assert_allclose(central[i], expected, atol=TOLERANCE)


@pytest.mark.parametrize(("mapping", "batch_size"), [("pmap", 1), ("shard_map", 256)])
def test_features_do_not_depend_on_batch_size_and_mapping(
    run_config, variables, split, features, mapping, batch_size
):
    run_config.eval.batch_size = batch_size
    embedder = Embedder(
        encoder_embedding(build_model(run_config), run_config), Devices(mapping), run_config
    )
    ours = embedder.central(variables, split), embedder.random(variables, split, 3)
    for one, other in zip(ours, features, strict=True):
        np.testing.assert_allclose(one, other, atol=TOLERANCE)


def test_streamed_sequences_have_the_same_features(run_config, variables, split, devices, data_dir):
    streamed = recordings.read(NAME, str(data_dir), "test", 300, devices, resident=False)
    embedder = Embedder(encoder_embedding(build_model(run_config), run_config), devices, run_config)
    for ours, theirs in (
        (embedder.central(variables, split), embedder.central(variables, streamed)),
        (embedder.random(variables, split, 1), embedder.random(variables, streamed, 1)),
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_draws_differ_and_are_reproducible(run_config, variables, split, devices):
    embedder = Embedder(encoder_embedding(build_model(run_config), run_config), devices, run_config)
    first, second = embedder.random(variables, split, 0), embedder.random(variables, split, 1)
    assert (first != second).any(1).all()
    np.testing.assert_array_equal(first, embedder.random(variables, split, 0))


def test_an_encoder_without_prompts_and_heads_is_enough(run_config, variables, split, devices):
    alone = jax.tree.map(jnp.asarray, variables)
    for collection in alone.values():
        for name in collection.keys() - {"encoder"}:
            del collection[name]
    embedder = Embedder(encoder_embedding(build_model(run_config), run_config), devices, run_config)
    np.testing.assert_array_equal(
        embedder.central(alone, split), embedder.central(variables, split)
    )


def test_a_batch_size_that_does_not_divide_is_refused_at_once(run_config, devices):
    several = Devices("pmap")
    several.count = 3
    with pytest.raises(UserError, match=r"config\.eval\.batch_size is 16"):
        Embedder(encoder_embedding(build_model(run_config), run_config), several, run_config)


def test_a_random_encoder_gives_other_features(finished_run, run_config, data_dir):
    devices = Devices(run_config.mapping)
    _, random = encoder(run_config, devices)
    run_config.encoder = str(finished_run[0])
    _, trained = encoder(run_config, devices)
    kernels = [v["params"]["encoder"]["gru"]["layer_0"]["input_kernel"] for v in (random, trained)]
    assert kernels[0].shape == kernels[1].shape
    assert np.abs(kernels[0] - kernels[1]).max() > 0.01


@pytest.mark.parametrize("kind", ["checkpoint", "export", "converted"])
def test_every_kind_of_model_file_can_be_evaluated(finished_run, run_config, tmp_path, kind):
    run = finished_run[0]
    run_config.encoder = str(run)
    expected = encoder_variables(run_config)
    if kind == "checkpoint":
        source = max((run / "checkpoints").iterdir(), key=lambda step: int(step.name))
    else:
        source = tmp_path / "model.safetensors"
        model = run
        if kind == "converted":
            convert.run(["to_torch", str(run), str(tmp_path / "model.pth.tar")])
            model = tmp_path / "model.pth.tar"
        convert.run(["export" if model is run else "from_torch", str(model), str(source)])
    run_config.encoder = str(source)
    if kind == "converted":
        # The authors' checkpoint does not store the length of its crops.
        with pytest.raises(UserError, match="add --config.views.frames=64"):
            encoder_variables(run_config)
        run_config.views.frames = 64
    chex.assert_trees_all_equal(encoder_variables(run_config), expected)


def test_an_encoder_of_other_sizes_names_the_flags(finished_run, run_config):
    run_config.encoder = str(finished_run[0])
    run_config.model.hidden = 9
    run_config.views.stream = "bone"
    with pytest.raises(UserError, match="add --config.model.hidden=8 --config.views.stream=joint"):
        encoder_variables(run_config)


def test_tasks_refuse_the_other_kind_of_data(run_config, tmp_path):
    with pytest.raises(UserError, match="has recordings of one action, but this task needs whole"):
        Detection().run(run_config, tmp_path)
    build.build("synthetic_skeletons/n4x2_untrimmed", tmp_path)
    run_config.data.update(name="synthetic_skeletons/n4x2_untrimmed", dir=str(tmp_path))
    with pytest.raises(UserError, match="has whole videos with their actions, but this task"):
        Retrieval().run(run_config, tmp_path)


def test_occlusion_changes_what_is_evaluated(finished_run, run_config, tmp_path):
    run_config.encoder = str(finished_run[0])
    devices = Devices(run_config.mapping)
    train_split, _ = read_splits(run_config, devices)
    features = {}
    for kind in ("none", "spatial", "temporal"):
        run_config.occlusion.kind = kind
        embedder, variables = encoder(run_config, devices)
        features[kind] = embedder.central(variables, train_split)
    assert np.abs(features["spatial"] - features["none"]).max() > 1e-3
    assert np.abs(features["temporal"] - features["none"]).max() > 1e-3


@given(st.integers(1, 6), st.integers(0, 1000))
def test_top_k_counts_labels_with_fewer_than_k_larger_scores(k, seed):
    rng = np.random.default_rng(seed)
    scores, labels = rng.permuted(np.tile(np.arange(6.0), (9, 1)), axis=1), rng.integers(0, 6, 9)
    larger = (scores > scores[np.arange(9), labels][:, None]).sum(1)
    assert top_k_accuracy(scores, labels, k) == pytest.approx((larger < k).mean())


def test_top_k_ties_go_to_the_first_classes():
    scores = np.zeros((3, 4))
    assert top_k_accuracy(scores, np.array([0, 1, 2]), 1) == pytest.approx(1 / 3)
    assert top_k_accuracy(scores, np.array([0, 1, 2]), 2) == pytest.approx(2 / 3)


def test_five_of_fewer_classes_are_all():
    assert top_k_accuracy(np.zeros((2, 3)), np.array([0, 2]), 5) == 1


@pytest.mark.parametrize(
    "seconds, text", [(3.21, "3.2 s"), (600, "10.0 min"), (9000, "2.5 h"), (8.64e5, "10.0 days")]
)
def test_durations_are_readable(seconds, text):
    assert duration(seconds) == text
