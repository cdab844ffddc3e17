"""The views of a step: independent of the sharding of the batch, and composed in order."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pcm3_jax.augment import pipeline
from pcm3_jax.data import skeleton
from pcm3_jax.data.batch import Batch, Clips
from pcm3_jax.settings import Occlusion
from pcm3_jax.settings import Views as ViewSettings

rng = np.random.default_rng(0)
LENGTHS = np.array([16, 40, 23, 9, 31, 70])
STARTS = np.cumsum(LENGTHS) - LENGTHS
FRAMES = rng.normal(size=(LENGTHS.sum(), 2, 25, 3)).astype(np.float32)
PARTNER = (np.arange(6) + 2) % 6

# Compiled separately, a product may round differently; coordinates are below 20.
TOLERANCE = 1e-5


def views_config(**changes) -> ViewSettings:
    config = ViewSettings()
    config.frames = 16
    config.min_crop_frames = 16
    config.mask_clip_frames = 4
    config.mix_blocks = (1, 3)
    config.update(**changes)
    return config


def batch_of(positions, partner=PARTNER) -> Batch:
    """The share of a global batch of six sequences at the given positions."""
    partner = partner[positions]
    return Batch(
        clips=Clips(STARTS[positions], LENGTHS[positions]),
        partner_clips=Clips(STARTS[partner], LENGTHS[partner]),
        position=positions,
        partner=partner,
    )


@functools.cache
def drawer(stream: str = "joint"):
    config = views_config(stream=stream)
    draw = jax.jit(lambda key, batch: pipeline.draw_views(key, jnp.asarray(FRAMES), batch, config))
    return lambda seed, batch: jax.device_get(draw(jax.random.key(seed), batch))


WHOLE = batch_of(np.arange(6))


def test_views_do_not_depend_on_the_sharding_of_the_batch():
    whole = drawer()(0, WHOLE)
    # Every row at another index and beside other rows; each share twice, to fill the batch.
    for positions in ([0, 1, 2, 0, 1, 2], [5, 3, 4, 3, 4, 5]):
        share = drawer()(0, batch_of(np.array(positions)))
        for name in ("intra", "target", "inter"):
            expected = getattr(whole.query, name)[positions]
            np.testing.assert_array_equal(getattr(share.query, name), expected, err_msg=name)
        np.testing.assert_array_equal(share.key, whole.key[positions])
        np.testing.assert_array_equal(share.query.visible, whole.query.visible)
        np.testing.assert_array_equal(share.partner, PARTNER[positions])
        assert share.mix_share == whole.mix_share


def test_views_are_a_function_of_key_and_position():
    first, again = drawer()(1, WHOLE), drawer()(1, WHOLE)
    chex.assert_trees_all_equal(first, again)
    other = drawer()(2, WHOLE)
    for name in ("intra", "target", "visible"):
        assert (getattr(first.query, name) != getattr(other.query, name)).any()
    # The same sequence at every position: each position has its own draws.
    zeros = np.zeros(6, int)
    same = Batch(
        Clips(STARTS[zeros], LENGTHS[zeros]), Clips(STARTS[zeros], LENGTHS[zeros]),
        np.arange(6), PARTNER,
    )  # fmt: skip
    views = drawer()(1, same)
    for view in (views.query.intra, views.query.target, views.key):
        assert len({row.tobytes() for row in view}) == 6
    # The three views of a sequence are drawn independently.
    assert (views.query.intra != views.key).any((1, 2, 3, 4)).all()
    assert (views.query.intra != views.query.target).any((1, 2, 3, 4)).all()


def test_a_partners_view_is_drawn_as_on_its_own_device():
    """Every mixed coordinate equals one of the sequence's or of the partner's query view."""
    kinds = set()
    for seed in range(12):
        views = drawer()(seed, WHOLE)
        own, mixed, share = views.query.intra, views.query.inter, views.mix_share
        partner = own[PARTNER]
        if np.allclose(mixed, (1 - share) * own + share * partner, rtol=0, atol=TOLERANCE):
            kinds.add("mixup")
            continue
        moved = (mixed != own).any((2, 4))  # (N, T, V)
        for i, frame, joint in zip(*np.nonzero(moved), strict=True):
            pasted = mixed[i, frame, :, joint]
            distance = np.abs(partner[i, :, :, joint] - pasted).max((1, 2))
            assert distance.min() <= TOLERANCE
            kinds.add("cutmix" if distance.argmin() == frame else "resizemix")
        # λ is the share of (block, joint) cells; random coordinates never coincide.
        assert share == pytest.approx(moved.mean((1, 2)).max(), abs=1e-6)
    assert kinds == {"cutmix", "resizemix", "mixup"}


@functools.cache
def many_spatial_changes():
    """(frames, views) of 402 draws of the sequence whose length is that of a view."""
    zeros = np.zeros(6, int)
    clips = Clips(STARTS[zeros], LENGTHS[zeros])
    batch = Batch(clips, clips, np.arange(6), PARTNER)
    drawn = [drawer()(seed, batch) for seed in range(67)]
    joined = {
        "target": [views.query.target for views in drawn],
        "intra": [views.query.intra for views in drawn],
        "key": [views.key for views in drawn],
    }
    return FRAMES[:16], {name: np.concatenate(views) for name, views in joined.items()}


def fitted_matrices(frames, views):
    """Least-squares linear map (3, 3) from frames to each view, and its largest error."""
    source = frames.reshape(-1, 3)
    matrices = np.stack(
        [np.linalg.lstsq(source, view.reshape(-1, 3), rcond=None)[0].T for view in views]
    )
    errors = np.abs(np.einsum("nij,...j->n...i", matrices, frames) - views).max((1, 2, 3, 4))
    return matrices, errors


def test_the_target_is_always_sheared_and_never_jittered():
    frames, views = many_spatial_changes()
    matrices, errors = fitted_matrices(frames, views["target"])
    # One matrix fits all joints.
    assert errors.max() < 1e-5
    np.testing.assert_allclose(np.einsum("nii->ni", matrices), 1, rtol=0, atol=1e-5)
    assert np.abs(matrices).max() < 1 + 1e-5
    assert len({m.tobytes() for m in matrices}) == 402


@pytest.mark.parametrize("which", ["intra", "key"])
def test_query_and_key_are_sheared_or_jittered_half_the_time(which):
    frames, views = many_spatial_changes()
    view = views[which]
    matrices, errors = fitted_matrices(frames, view)
    sheared = errors < 1e-5
    np.testing.assert_allclose(np.einsum("nii->ni", matrices[sheared]), 1, rtol=0, atol=1e-5)
    # 402 draws with probability ½: standard deviation 10.
    assert abs(sheared.sum() - 201) < 50
    untouched = (view == frames).all((1, 2, 4))  # (N, V)
    assert (untouched[~sheared].sum(1) == 10).all()
    zeroed = (view == 0).all((1, 2, 4)).sum(1)
    assert set(zeroed[sheared]) == {0}
    assert set(zeroed[~sheared]) == {0, 15}
    # Some 200 draws with probability ½: standard deviation 7.
    assert abs((zeroed == 15).sum() - (~sheared).sum() / 2) < 36


def test_streams_are_computed_after_augmentation():
    to_stream = skeleton.STREAMS["motion"]
    joint, made = drawer()(3, WHOLE), drawer("motion")(3, WHOLE)
    for name in ("intra", "target"):
        expected = to_stream(jnp.asarray(getattr(joint.query, name)))
        got = getattr(made.query, name)
        np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE, err_msg=name)
    np.testing.assert_allclose(made.key, to_stream(jnp.asarray(joint.key)), rtol=0, atol=TOLERANCE)
    np.testing.assert_array_equal(made.query.visible, joint.query.visible)


def test_offsets_are_uniform_over_the_channels_that_fit():
    keys = jax.random.split(jax.random.key(0), 3000)
    offsets = jax.jit(jax.vmap(lambda k: pipeline.draw_offsets(k, hidden=10, width=4)))(keys)
    drawn = np.stack(jax.tree.leaves(offsets))
    assert drawn.shape == (6, 3000) and drawn.dtype == np.int32
    for place in drawn:
        counts = np.bincount(place)
        # 0 … 10 - 4 - 1, each 500 times with a standard deviation of 20.
        assert len(counts) == 6 and np.abs(counts - 500).max() < 102
    # The six draws are independent.
    correlations = np.corrcoef(drawn)[~np.eye(6, dtype=bool)]
    assert np.abs(correlations).max() < 5 / np.sqrt(3000)


@pytest.mark.parametrize("stream", skeleton.STREAMS)
def test_central_view(stream):
    config = views_config(stream=stream, eval_crop_ratio=0.9)
    views = jax.jit(lambda f: pipeline.central_view(f, WHOLE.clips, config))(jnp.asarray(FRAMES))
    assert views.shape == (6, 16, 2, 25, 3)
    # A margin of 5 % at each end: of 70 frames floor(3.5).
    expected = pipeline.augmentation.crop_resize(jnp.asarray(FRAMES), STARTS[5] + 3, 64, 16)
    expected = skeleton.STREAMS[stream](expected)
    np.testing.assert_allclose(views[5], expected, rtol=0, atol=TOLERANCE)


def test_views_without_resizing_are_successive_frames():
    config = views_config(resize=False, shear_limit=0.0)
    frames = jnp.asarray(FRAMES)
    central = jax.jit(lambda f: pipeline.central_view(f, WHOLE.clips, config))(frames)
    np.testing.assert_array_equal(central[5], FRAMES[STARTS[5] + 27 : STARTS[5] + 43])
    # A sequence of 9 frames stays in its last frame.
    short = FRAMES[STARTS[3] + np.minimum(np.arange(16), 8)]
    np.testing.assert_array_equal(central[3], short)

    draw = jax.jit(
        lambda key: pipeline.draw_poses(
            key, frames, WHOLE.clips, np.arange(6), config, jittering=False
        )[0]
    )
    found = set()
    for seed in range(20):
        views = np.asarray(draw(jax.random.key(seed)))
        np.testing.assert_allclose(views[3], short, atol=TOLERANCE)
        offset = np.abs(FRAMES[STARTS[5] :, 0, 0] - views[5, 0, 0, 0]).sum(-1).argmin()
        whole = FRAMES[STARTS[5] + offset : STARTS[5] + offset + 16]
        np.testing.assert_allclose(views[5], whole, atol=TOLERANCE)
        found.add(int(offset))
    assert len(found) > 10


def test_random_view_is_only_cropped():
    config = views_config(eval_train_crop_ratio=(0.5, 1.0))
    # A ramp in time shows where a crop lies, and that no coordinate is sheared or jittered.
    ramp = np.broadcast_to(np.arange(70.0)[:, None, None, None], (70, 2, 25, 3))
    ramp = jnp.asarray(ramp, jnp.float32)
    count = 200
    clips = Clips(np.zeros(count, int), np.full(count, 70))

    nothing = Occlusion()

    @jax.jit
    def random_view(key, position):
        return pipeline.occluded_view(key, ramp, clips, position, config, nothing, central=False)

    def draw(seed, position):
        return np.asarray(random_view(jax.random.key(seed), position))

    views = draw(0, np.arange(count))
    assert (views == views[:, :, :1, :1, :1]).all()
    line = views[:, :, 0, 0, 0]
    step = line[:, 8] - line[:, 7]
    lengths = np.round(step * 16)
    assert lengths.min() >= 35 and lengths.max() <= 70
    assert lengths.min() < 40 and lengths.max() > 65
    assert line.min() >= 0 and line.max() <= 69
    assert len({row.tobytes() for row in line}) > count / 2
    # Draws depend on the position, not on the row.
    turned = draw(0, np.arange(count)[::-1])
    np.testing.assert_array_equal(turned[::-1], views)
    assert (draw(1, np.arange(count)) != views).any()


@pytest.mark.parametrize("stream", ["joint", "motion"])
def test_occlusion_comes_before_the_stream(stream):
    config = views_config(stream=stream)
    position = np.arange(len(WHOLE.clips.start))

    def view(kind):
        occlusion = Occlusion(kind=kind)
        return np.asarray(
            jax.jit(
                lambda key: pipeline.occluded_view(
                    key, jnp.asarray(FRAMES), WHOLE.clips, position, config, occlusion, central=True
                )
            )(jax.random.key(0))
        )

    clean = jax.jit(lambda f: pipeline.central_view(f, WHOLE.clips, config))(jnp.asarray(FRAMES))
    np.testing.assert_allclose(view("none"), clean, rtol=0, atol=TOLERANCE)
    hidden = (view("temporal") == 0).all((2, 3, 4))
    # A block of 5 to 11 of 16 frames; one less for motion, whose last frame is always zero.
    assert (hidden.sum(1) >= 4).all() and (hidden.sum(1) <= 12).all()


def test_bones_to_missing_joints_are_zero_in_every_view():
    """A hand missing in the whole data set, and a foot missing in every second frame."""
    frames = FRAMES.copy()
    frames[:, :, 7] = 0
    frames[::2, 0, 15] = 0
    config = views_config(stream="bone")
    draw = jax.jit(lambda key: pipeline.draw_views(key, jnp.asarray(frames), WHOLE, config))
    views = jax.device_get(draw(jax.random.key(0)))
    gone = [7, 22]  # joint 7, the hand, is the parent of 22, the thumb
    for view in (views.query.intra, views.query.target, views.key):
        zero = (view == 0).all(axis=-1)
        assert zero[..., gone].all()
        # At least every second frame; in stretched crops also interpolated ones.
        assert zero[:, :, 0, 15].mean() > 0.45 and not zero[:, :, 1, 15].all()
    # Without jittering nothing else is zero; joint 20 is its own parent.
    rest = np.setdiff1d(np.arange(25), [*gone, 15, 20])
    assert not (views.query.target[..., rest, :] == 0).all(axis=-1).any()
