"""CutMix, ResizeMix and Mixup against the restatement, and how often each is drawn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm3_jax.augment import mixing
from pcm3_jax.data.skeleton import part_membership
from tests import restatement

METHODS = [mixing.CUTMIX, mixing.RESIZEMIX, mixing.MIXUP]
jitted_mix = jax.jit(mixing.mix, static_argnums=3)


def make_draw(method, parts=(0, 1), first_block=0, blocks=7, share=0.3) -> mixing.Mix:
    joints = part_membership()[list(parts)].any(0)
    return mixing.Mix(method, joints, np.int32(first_block), np.int32(blocks), np.float32(share))


def poses(seed, rows=3, frames=64) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, frames, 2, 25, 3)).astype(np.float32)


def both(views, partner, draw, parts, blocks, first, share, block_frames=4):
    """(ours, λ) and the restatement's."""
    ours = jitted_mix(jnp.asarray(views), jnp.asarray(views[partner]), draw, block_frames)
    if draw.method == mixing.MIXUP:
        return ours, restatement.mixup(views, partner, share)
    stated = restatement.cutmix if draw.method == mixing.CUTMIX else restatement.resizemix
    return ours, stated(views, partner, parts, blocks, first)


@given(
    method=st.sampled_from(METHODS),
    parts=st.sets(st.integers(0, 4), min_size=2, max_size=3),
    blocks=st.integers(7, 11),
    place=st.floats(0, 0.999),
    share=st.floats(0, 1, width=32),
    shift=st.integers(1, 2),
    seed=st.integers(0, 9),
)
def test_mix_matches_the_restatement(method, parts, blocks, place, share, shift, seed):
    first = int(place * (16 - blocks + 1))
    parts, partner = sorted(parts), (np.arange(3) + shift) % 3
    draw = make_draw(method, parts, first, blocks, share)
    ours, stated = both(poses(seed), partner, draw, parts, blocks, first, share)
    # Copies are exact; Mixup rounds in float32 numbers below 5.
    tolerance = 1e-6 if method == mixing.MIXUP else 0
    np.testing.assert_allclose(ours[0], stated[0], rtol=0, atol=tolerance)
    assert ours[1] == pytest.approx(stated[1], abs=1e-6)


@pytest.mark.parametrize("blocks", range(7, 12))
def test_resizemix_of_every_length(blocks):
    """From 9 blocks on, the partner's first 2·4·Ct frames would exceed its 64 frames."""
    views, partner, last = poses(1), np.array([1, 2, 0]), 16 - blocks
    draw = make_draw(mixing.RESIZEMIX, (2, 4), last, blocks)
    ours, stated = both(views, partner, draw, (2, 4), blocks, last, 0.0)
    np.testing.assert_array_equal(ours[0], stated[0])
    # The region's last frame comes from the end of the resized source.
    source = min(8 * blocks, 64)
    index = (4 * blocks - 1) * source // (4 * blocks)
    np.testing.assert_array_equal(ours[0][0, -1, :, 12], views[1, index, :, 12])


@pytest.mark.parametrize(("frames", "blocks"), [(16, 3), (16, 4), (8, 1), (40, 6), (100, 25)])
@pytest.mark.parametrize("method", METHODS[:2])
def test_other_sequence_lengths(method, frames, blocks):
    views, partner = poses(2, frames=frames), np.array([2, 0, 1])
    first = frames // 4 - blocks
    draw = make_draw(method, (0, 3), first, blocks)
    ours, stated = both(views, partner, draw, (0, 3), blocks, first, 0.0)
    np.testing.assert_array_equal(ours[0], stated[0])
    assert ours[1] == pytest.approx(stated[1], abs=1e-6)


def test_other_block_sizes():
    views = poses(3, frames=30)
    draw = make_draw(mixing.CUTMIX, (4,), first_block=2, blocks=1)
    mixed, share = jitted_mix(jnp.asarray(views), jnp.asarray(views[::-1]), draw, 10)
    expected = views.copy()
    legs = restatement.part_joints([4])
    expected[:, 20:30, :, legs] = views[::-1, 20:30][..., legs, :]
    np.testing.assert_array_equal(mixed, expected)
    # One of three blocks, four of 25 joints.
    assert share == pytest.approx(4 / 75, abs=1e-7)


@functools.cache
def draws(count=6000, frames=64, block=4, parts=(2, 3), blocks=(7, 11)) -> mixing.Mix:
    keys = jax.random.split(jax.random.key(0), count)
    one = lambda k: mixing.random_mix(k, frames, block, parts, blocks)  # noqa: E731
    return jax.device_get(jax.jit(jax.vmap(one))(keys))


def within(count, trials, chance):
    """Whether a count is within five standard deviations of its mean; the keys are fixed."""
    return abs(count - trials * chance) <= 5 * np.sqrt(trials * chance * (1 - chance))


def test_methods_are_drawn_with_probability_half_quarter_quarter():
    counts = np.bincount(draws().method, minlength=3)
    for method, chance in zip(METHODS, (0.5, 0.25, 0.25), strict=True):
        assert within(counts[method], 6000, chance)


def test_two_or_three_parts_equally_often():
    touched = draws().joints @ part_membership().T.astype(int)
    sizes = part_membership().sum(1)
    assert ((touched == 0) | (touched == sizes)).all()
    count = (touched > 0).sum(1)
    assert set(count) == {2, 3}
    assert within((count == 2).sum(), 6000, 0.5)
    # Each part in 2/5 or 3/5 of them.
    assert all(within(n, 6000, 0.5) for n in (touched > 0).sum(0))


def test_runs_of_blocks_fit_and_start_everywhere():
    drawn = draws()
    assert set(drawn.blocks) == {7, 8, 9, 10, 11}
    assert all(within((drawn.blocks == n).sum(), 6000, 0.2) for n in range(7, 12))
    for blocks in range(7, 12):
        first = drawn.first_block[drawn.blocks == blocks]
        places = np.bincount(first)
        assert len(places) == 16 - blocks + 1
        assert all(within(n, len(first), 1 / len(places)) for n in places)


def test_mixup_shares_are_uniform():
    share = draws().share
    assert share.min() >= 0 and share.max() < 1
    counts = np.histogram(share, 10, (0, 1))[0]
    assert all(within(n, 6000, 0.1) for n in counts)


def test_settings_reach_the_draws():
    drawn = draws(500, frames=16, block=4, parts=(1, 1), blocks=(4, 4))
    assert set(drawn.blocks) == {4} and set(drawn.first_block) == {0}
    assert set(drawn.joints.sum(1)) == {4, 5, 6}
