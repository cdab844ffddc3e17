"""Occlusion: which joints and frames are hidden, and how many."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pcm3_jax.augment.occlusion import visibility
from pcm3_jax.data.skeleton import BODY_PARTS
from pcm3_jax.settings import Occlusion

FRAMES = 20


def draws(kind, ratio=(0.3, 0.7), count=300):
    """(count, T, V), 1 where visible."""
    occlusion = Occlusion(kind=kind, ratio=ratio)
    draw = functools.partial(visibility, frames=FRAMES, occlusion=occlusion)
    return np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), count)))


def test_none_hides_nothing():
    assert (draws("none") == 1).all()


def test_spatial_hides_whole_body_parts_in_every_frame():
    masks = draws("spatial")
    assert (masks == masks[:, :1]).all()
    counts, seen = set(), np.zeros(len(BODY_PARTS))
    for mask in masks[:, 0]:
        hidden = [not mask[list(joints)].any() for joints in BODY_PARTS.values()]
        visible = [mask[list(joints)].all() for joints in BODY_PARTS.values()]
        assert all(h != v for h, v in zip(hidden, visible, strict=True))
        counts.add(sum(hidden))
        seen += hidden
    # U(0.3, 0.7) of five parts, rounded: 1.5 to 3.5.
    assert counts == {2, 3}
    # Each part is hidden half of the time: 150 of 300, six standard deviations are 52.
    assert (abs(seen - 150) < 52).all()


def test_temporal_hides_one_block_of_frames():
    masks = draws("temporal")
    assert (masks == masks[:, :, :1]).all()
    lengths, ends = set(), set()
    for mask in masks[:, :, 0]:
        hidden = np.flatnonzero(mask == 0)
        assert (np.diff(hidden) == 1).all()
        lengths.add(len(hidden))
        ends |= {int(hidden[0]), int(hidden[-1])}
    assert lengths == set(range(6, 15))
    assert {0, FRAMES - 1} <= ends


@pytest.mark.parametrize("kind", ["spatial", "temporal"])
def test_ratio_one_hides_everything(kind):
    assert jnp.sum(draws(kind, ratio=(1.0, 1.0), count=2)) == 0
