"""Which joints are masked, by their frequencies."""

import functools
import itertools

import jax
import numpy as np
import pytest

from pcm3_jax.augment import masking
from pcm3_jax.data.skeleton import part_membership
from tests import restatement


@functools.cache
def draw(strategy, ratio, count=500, frames=64, clip=8) -> np.ndarray:
    """(count, T, M, V)."""
    keys = jax.random.split(jax.random.key(0), count)
    one = lambda k: masking.random_visibility(k, frames, clip, strategy, ratio)  # noqa: E731
    return np.asarray(jax.jit(jax.vmap(one))(keys))


# Table 10's ratios.
RATIOS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def test_ratios_are_rounded_down_to_whole_units():
    topology = [masking.masked_units("topology", ratio) for ratio in RATIOS]
    assert topology == [1, 1, 2, 2, 3, 3, 4]
    random = [masking.masked_units("random", ratio) for ratio in RATIOS]
    assert random == [5, 7, 10, 12, 15, 17, 20]


@pytest.mark.parametrize("ratio", [0.2, 0.6, 0.8])
@pytest.mark.parametrize("strategy", masking.MASK_UNITS)
def test_every_clip_hides_the_configured_share(strategy, ratio):
    units = masking.masked_units(strategy, ratio)
    visible = draw(strategy, ratio)
    assert visible.shape == (500, 64, 2, 25)
    assert set(np.unique(visible)) == {0, 1}
    first = visible[:, :, 0].reshape(500, 8, 8, 25)
    # One draw per clip.
    np.testing.assert_array_equal(first, np.broadcast_to(first[:, :, :1], first.shape))
    hidden = first[:, :, 0] == 0
    if strategy == "random":
        assert (hidden.sum(-1) == units).all()
        return
    sizes = part_membership().sum(1)
    touched = hidden @ part_membership().T.astype(int)
    # A part is hidden completely or not at all.
    assert ((touched == 0) | (touched == sizes)).all()
    assert ((touched > 0).sum(-1) == units).all()


@pytest.mark.parametrize("strategy", masking.MASK_UNITS)
def test_the_second_person_is_never_masked(strategy):
    visible = draw(strategy, 0.8)
    assert (visible[:, :, 1] == 1).all()
    assert (visible[:, :, 0] == 0).any((0, 1)).all()


def test_clips_draw_every_set_of_parts_equally_often():
    visible = draw("topology", 0.6)
    # One joint of each part.
    hidden = visible[:, ::8, 0][..., [0, 8, 4, 16, 12]] == 0
    counts = [(hidden[..., list(s)].all(-1)).sum() for s in itertools.combinations(range(5), 3)]
    assert sum(counts) == 4000
    # Ten sets with probability 1/10: standard deviation 19.
    assert min(counts) > 400 - 95 and max(counts) < 400 + 95
    # Neighbouring clips agree one time in ten.
    same = (hidden[:, 1:] == hidden[:, :-1]).all(-1).mean()
    assert abs(same - 0.1) < 0.03


def test_clips_draw_joints_independently():
    hidden = draw("random", 0.6)[:, ::8, 0] == 0
    # 4000 draws with probability 0.6: standard deviation 0.0077.
    np.testing.assert_allclose(hidden.mean((0, 1)), 0.6, rtol=0, atol=0.039)
    assert not (hidden[:, 1:] == hidden[:, :-1]).all(-1).any()


@pytest.mark.parametrize(("frames", "clip"), [(16, 4), (6, 1)])
def test_other_sequence_and_clip_lengths(frames, clip):
    visible = draw("topology", 0.4, 1, frames, clip)[0, :, 0]
    chosen = []
    for frame in visible[::clip]:
        chosen.append([p for p in range(5) if not frame[restatement.part_joints([p])].any()])
        assert len(chosen[-1]) == 2
    joints = [restatement.part_joints(parts) for parts in chosen]
    np.testing.assert_array_equal(visible, restatement.random_mask(joints, frames))
