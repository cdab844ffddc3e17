"""Features of whole splits: every sequence once, whatever the batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pcm3_jax.augment.pipeline import Clips, central_view
from pcm3_jax.data import recordings
from pcm3_jax.errors import UserError
from pcm3_jax.methods.state import build_model, init_variables
from pcm3_jax.models.pcm3 import PCM3
from pcm3_jax.runtime.parallel import Devices
from pcm3_jax.tasks.features import Embedder, encoder_embedding

NAME = "synthetic_skeletons/n64x32"
# float32 sums in another order, for another batch size.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def devices():
    return Devices("pmap")


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
    embedder = Embedder(encoder_embedding(build_model(config)), devices, config)
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
    embedder = Embedder(encoder_embedding(build_model(run_config)), Devices(mapping), run_config)
    ours = embedder.central(variables, split), embedder.random(variables, split, 3)
    for one, other in zip(ours, features, strict=True):
        np.testing.assert_allclose(one, other, atol=TOLERANCE)


def test_streamed_sequences_have_the_same_features(run_config, variables, split, devices, data_dir):
    streamed = recordings.read(NAME, str(data_dir), "test", 300, devices, resident=False)
    embedder = Embedder(encoder_embedding(build_model(run_config)), devices, run_config)
    for ours, theirs in (
        (embedder.central(variables, split), embedder.central(variables, streamed)),
        (embedder.random(variables, split, 1), embedder.random(variables, streamed, 1)),
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_every_draw_is_another_and_the_same_again(run_config, variables, split, devices):
    embedder = Embedder(encoder_embedding(build_model(run_config)), devices, run_config)
    first, second = embedder.random(variables, split, 0), embedder.random(variables, split, 1)
    assert (first != second).any(1).all()
    np.testing.assert_array_equal(first, embedder.random(variables, split, 0))


def test_an_encoder_without_prompts_and_heads_will_do(run_config, variables, split, devices):
    alone = jax.tree.map(jnp.asarray, variables)
    for collection in alone.values():
        for name in collection.keys() - {"encoder"}:
            del collection[name]
    embedder = Embedder(encoder_embedding(build_model(run_config)), devices, run_config)
    np.testing.assert_array_equal(
        embedder.central(alone, split), embedder.central(variables, split)
    )


def test_a_batch_size_that_does_not_divide_is_refused_at_once(run_config, devices):
    several = Devices("pmap")
    several.count = 3
    with pytest.raises(UserError, match=r"config\.eval\.batch_size is 16"):
        Embedder(encoder_embedding(build_model(run_config)), several, run_config)
