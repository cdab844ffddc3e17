"""Crops, shear and jittering: values against the restatement, draws by their frequencies.

The draws' keys are fixed, so the counts are the same in every run; bounds are five standard
deviations of what a right sampler gives.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcm3_jax.augment import augmentation
from pcm3_jax.data.joint_layouts import LAYOUTS
from pcm3_jax.settings import Views
from tests import restatement

# Float32 rounding of coordinates below 10.
TOLERANCE = 3e-6

rng = np.random.default_rng(0)
SEQUENCE = rng.normal(size=(310, 2, 25, 3)).astype(np.float32)
crop_resize = jax.jit(augmentation.crop_resize, static_argnums=3)


def within(count, trials, chance):
    """Whether a count is within five standard deviations of its binomial mean."""
    return abs(count - trials * chance) <= 5 * np.sqrt(trials * chance * (1 - chance))


@settings(max_examples=60)
@given(start=st.integers(0, 9), length=st.integers(1, 300))
def test_crop_resize(start, length):
    made = crop_resize(jnp.asarray(SEQUENCE), start, length, 64)
    expected = restatement.crop_resize(SEQUENCE, start, length)
    # Float32 positions up to 300 are exact to 2e-5 frames; frames differ by about 3.
    np.testing.assert_allclose(made, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 16, 100])
def test_crop_resize_to_other_sizes(size):
    made = crop_resize(jnp.asarray(SEQUENCE), 3, 17, size)
    expected = restatement.crop_resize(SEQUENCE, 3, 17, size)
    np.testing.assert_allclose(made, expected, rtol=0, atol=1e-4)


def test_crop_resize_reads_only_the_crop():
    outside = SEQUENCE.copy()
    outside[:20] = outside[90:] = np.nan
    made = crop_resize(jnp.asarray(outside), 20, 70, 64)
    assert np.isfinite(made).all()


def test_crop_resize_appends_a_second_person_of_zeros():
    made = crop_resize(jnp.asarray(SEQUENCE[:, :1]), 0, 90, 64)
    both = crop_resize(jnp.asarray(SEQUENCE), 0, 90, 64)
    assert made.shape == (64, 2, 25, 3)
    # Programs of different shapes may round the same sums differently.
    np.testing.assert_allclose(made[:, 0], both[:, 0], rtol=0, atol=1e-6)
    assert not made[:, 1].any()


def test_central_crop_of_every_length():
    lengths = np.arange(1, 301)
    for ratio in (0.95, 0.5, 1.0):
        start, crop = jax.jit(jax.vmap(lambda n, r=ratio: augmentation.central_crop(n, r)))(lengths)
        expected = [restatement.central_crop(int(n), ratio) for n in lengths]
        np.testing.assert_array_equal(np.stack([start, crop], 1), expected)


def test_random_crops_lie_inside_sequences_of_every_length():
    lengths = np.repeat(np.arange(2, 301), 40)
    keys = jax.random.split(jax.random.key(0), len(lengths))
    start, crop = jax.jit(jax.vmap(lambda k, n: augmentation.random_crop(k, n, (0.1, 1.0), 64)))(
        keys, lengths
    )
    start, crop = np.asarray(start), np.asarray(crop)
    assert (start >= 0).all() and (start + crop <= lengths).all()
    assert (crop >= np.minimum(64, lengths)).all()
    # A sequence below the minimum is taken whole.
    short = lengths <= 64
    np.testing.assert_array_equal(crop[short], lengths[short])
    # Crops reach both ends of sequences longer than them.
    shorter = crop < lengths
    assert (start[shorter] == 0).any() and (start + crop == lengths)[shorter].any()


def test_random_crop_has_the_programs_distribution():
    count = 20000
    keys = jax.random.split(jax.random.key(1), count)
    start, crop = jax.jit(jax.vmap(lambda k: augmentation.random_crop(k, 100, (0.1, 1.0), 64)))(
        keys
    )
    start, crop = np.asarray(start), np.asarray(crop)
    # floor(100 u) < 65 for u in U(0.1, 1) becomes 64.
    assert within((crop == 64).sum(), count, 0.55 / 0.9)
    for length in range(65, 100):
        assert within((crop == length).sum(), count, 0.01 / 0.9)
    assert crop.max() == 99
    # All 37 starts of a 64-frame crop are equally frequent.
    places = np.bincount(start[crop == 64])
    assert len(places) == 37
    assert all(within(n, (crop == 64).sum(), 1 / 37) for n in places)


def test_crop_ratio_bounds_the_share():
    keys = jax.random.split(jax.random.key(2), 2000)
    _, crop = jax.jit(jax.vmap(lambda k: augmentation.random_crop(k, 300, (0.5, 0.6), 64)))(keys)
    assert crop.min() == 150 and crop.max() == 179


def test_shear_and_jitter():
    poses, matrix = SEQUENCE[:5], rng.uniform(-1, 1, (3, 3)).astype(np.float32)
    chosen = np.array([0, 3, 24])
    joints = np.zeros(25, bool)
    joints[chosen] = True
    for made, expected in (
        (augmentation.shear(poses, matrix), restatement.shear(poses, matrix)),
        (
            augmentation.jitter(poses, joints, matrix),
            restatement.joint_jitter(poses, chosen, matrix),
        ),
        (
            augmentation.jitter(poses, joints, np.zeros_like(matrix)),
            restatement.joint_jitter(poses, chosen, None),
        ),
    ):
        np.testing.assert_allclose(made, expected, rtol=0, atol=TOLERANCE)
    # Joints that are not chosen are bitwise unchanged.
    jittered = augmentation.jitter(poses, joints, matrix)
    np.testing.assert_array_equal(jittered[..., ~joints, :], poses[..., ~joints, :])


def test_random_shear_has_ones_on_the_diagonal():
    keys = jax.random.split(jax.random.key(3), 4000)
    matrices = np.asarray(jax.jit(jax.vmap(lambda k: augmentation.random_shear(k, 0.5)))(keys))
    diagonal = np.eye(3, dtype=bool)
    assert (matrices[:, diagonal] == 1).all()
    off = matrices[:, ~diagonal]
    assert np.abs(off).max() <= 0.5
    # U(-0.5, 0.5) in each of six places, independent: standard deviation 0.5/√3.
    assert np.abs(off.mean(0)).max() < 5 * 0.289 / np.sqrt(4000)
    np.testing.assert_allclose(off.std(0), 0.5 / np.sqrt(3), rtol=0.05)
    correlations = np.corrcoef(off.T)[~np.eye(6, dtype=bool)]
    assert np.abs(correlations).max() < 5 / np.sqrt(4000)


def test_random_jitter_draws_fifteen_joints_and_a_zero_matrix_half_the_time():
    count = 4000
    keys = jax.random.split(jax.random.key(4), count)
    joints, matrices = jax.jit(jax.vmap(lambda k: augmentation.random_jitter(k, 15, 0.7)))(keys)
    joints, matrices = np.asarray(joints), np.asarray(matrices)
    assert joints.dtype == bool and (joints.sum(1) == 15).all()
    assert all(within(n, count, 15 / 25) for n in joints.sum(0))
    # Pairs are as frequent as without replacement: 15 · 14 / (25 · 24).
    assert within((joints[:, 2] & joints[:, 17]).sum(), count, 0.35)
    zero = ~matrices.any((1, 2))
    assert within(zero.sum(), count, 0.5)
    drawn = matrices[~zero]
    assert np.abs(drawn).max() <= 0.7
    # U(-0.7, 0.7) in every entry, the diagonal included.
    np.testing.assert_allclose(drawn.std(0), 0.7 / np.sqrt(3), rtol=0.06)
    assert np.abs(drawn.mean(0)).max() < 5 * 0.41 / np.sqrt(len(drawn))


@pytest.mark.parametrize("count", [0, 25])
def test_jitter_of_any_number_of_joints(count):
    joints, _ = jax.jit(lambda key: augmentation.random_jitter(key, count, 1.0))(jax.random.key(5))
    assert joints.sum() == count


def test_random_missing_draws_every_layout_with_its_share():
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = np.asarray(jax.vmap(lambda key: augmentation.random_missing(key, 0.75))(keys))
    lacking = [layout.missing for layout in LAYOUTS.values() if layout.missing]
    counts = dict.fromkeys(((), *lacking), 0)
    for row in drawn:
        counts[tuple(np.flatnonzero(row))] += 1
    assert within(counts.pop(()), 4000, 0.25)
    assert all(within(count, 4000, 0.75 / len(lacking)) for count in counts.values())


def test_dropped_joints_leave_the_other_draws_as_they_are():
    frames = jnp.asarray(SEQUENCE)
    made = {}
    for share in (0.0, 0.5, 1.0):
        config = Views()
        config.drop_joints = share
        draw = jax.jit(lambda key, c=config: augmentation.augment(
            key, frames, 0, 100, c, jittering=True))  # fmt: skip
        made[share] = [draw(jax.random.key(seed)) for seed in range(20)]
    lacking = {layout.missing for layout in LAYOUTS.values() if layout.missing}
    for (poses, visible), (same, half), (other, seen) in zip(*made.values(), strict=True):
        # Programs of different draws may round the same products differently.
        np.testing.assert_allclose(same, poses, atol=1e-5)
        np.testing.assert_allclose(other, poses, atol=1e-5)
        assert visible.all() and (half.all() or np.array_equal(half, seen))
        # One layout in all frames and for both persons.
        assert tuple(np.flatnonzero(~seen[0, 0])) in lacking and (seen == seen[0, 0]).all()
