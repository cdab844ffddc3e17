"""Movement programmes: distinct, people-like, deterministic, and the same for all performers."""

import numpy as np
import pytest

from pcm3_jax.data.normalization import normalize_sequence, select_bodies
from tests.tfds_builders.built import read_built
from tfds_builders.build import build
from tfds_builders.synthetic_skeletons import motions, movements
from tfds_builders.synthetic_skeletons.body import OFFSETS

PROGRAMMES = 64


@pytest.fixture(scope="module")
def clips():
    return list(motions.generate("train", 0, 4 * PROGRAMMES, PROGRAMMES))


def test_programmes_have_different_names_and_come_in_a_fixed_order():
    known = motions.programmes(PROGRAMMES)
    assert len({programme.name for programme in known}) == PROGRAMMES
    assert [p.name for p in motions.programmes(8)] == [p.name for p in known[:8]]
    assert not any("{" in programme.name for programme in known)


def test_shapes_and_ranges(clips):
    for clip in clips:
        length, *shape = clip.skeleton.shape
        assert motions.MIN_FRAMES <= length <= motions.MAX_FRAMES
        assert shape == [2, 25, 3]
        assert clip.skeleton.dtype == np.float32
        assert np.isfinite(clip.skeleton).all()
        seen = clip.skeleton[clip.skeleton.any(axis=-1)]
        assert np.abs(seen).max() < 12
        programme = motions.programmes(PROGRAMMES)[clip.label]
        assert clip.skeleton[:, 1].any() == (programme.partner is not None)
    assert np.std([len(clip.skeleton) for clip in clips]) > 20


def test_bones_keep_their_length(clips):
    for clip in clips:
        spine = clip.skeleton[:, 0, 0] - clip.skeleton[:, 0, 1]
        length = np.linalg.norm(spine, axis=-1)
        # Noise of about 2 cm a joint; the spine is never lost.
        assert length.std() < 0.05
        assert 0.12 < np.median(length) < 0.45


def test_a_clip_is_a_function_of_seed_split_count_and_number():
    one = next(motions.generate("train", 70, 71, PROGRAMMES))
    again = list(motions.generate("train", 60, 80, PROGRAMMES))[10]
    np.testing.assert_array_equal(one.skeleton, again.skeleton)
    assert one[1:] == again[1:]
    for other in (
        motions.generate("train", 70, 71, PROGRAMMES, seed=1),
        motions.generate("test", 70, 71, PROGRAMMES),
    ):
        skeleton = next(other).skeleton
        assert skeleton.shape != one.skeleton.shape or (skeleton != one.skeleton).any()


def test_performers_differ_between_splits(clips):
    test = motions.generate("test", 0, PROGRAMMES, PROGRAMMES)
    assert not {clip.performer for clip in clips} & {clip.performer for clip in test}


def test_the_hand_touches_what_a_contact_names():
    for name, (joint, offset, _) in movements.CONTACTS.items():
        poses = movements.contact_poses(name)
        joints = movements.RIG.joints(poses, np.broadcast_to(OFFSETS, (len(poses), *OFFSETS.shape)))
        hand = joints[:, 11]
        if joint is None:
            distance = np.abs(hand[:, 1] - offset[1])
        else:
            distance = np.linalg.norm(hand - joints[:, joint] - offset, axis=1)
        assert np.median(distance) < 0.13, name


def test_performances_of_a_programme_are_alike(clips):
    """Nearest neighbours in raw coordinates find the programme far more often than chance."""
    rows = []
    for clip in clips:
        flat = normalize_sequence(select_bodies(clip.skeleton)).reshape(len(clip.skeleton), -1)
        rows.append(flat[np.linspace(0, len(flat) - 1, 16).round().astype(int)].ravel())
    features, labels = np.array(rows), np.array([clip.label for clip in clips])
    square = (features**2).sum(1)
    distance = square[:, None] + square - 2 * features @ features.T
    np.fill_diagonal(distance, np.inf)
    accuracy = (labels[distance.argmin(1)] == labels).mean()
    # Chance is 0.012; not so high that nothing is left to learn.
    assert 0.1 < accuracy < 0.8


def test_every_gait_moves_the_body():
    phase = np.linspace(0, 6, 30)
    for name in movements.GAITS:
        channels = movements.gait_channels(name, phase, 1.0)
        assert set(channels) <= set(movements.CHANNELS)
        assert max(np.ptp(values) for values in channels.values()) > 0.15, name


def test_builder(tmp_path):
    builder = build("synthetic_skeletons/motions_n96", data_dir=tmp_path)
    splits = read_built(builder)
    assert {name: len(examples) for name, examples in splits.items()} == {"train": 96, "test": 12}
    names = builder.info.features["label"].names
    assert names == [f"{i:04d} {p.name}" for i, p in enumerate(motions.programmes(12))]
    assert {example["label"] for example in splits["test"].values()} == set(range(12))


def test_unknown_split():
    with pytest.raises(KeyError, match="validation"):
        next(motions.generate("validation", 0, 1, PROGRAMMES))
