"""The generator: bodies stay bodies, clips vary, and raw coordinates do not give the class away."""

import numpy as np
import pytest

from pcm3_jax.data.normalization import normalize_sequence, select_bodies
from tfds_builders.synthetic_skeletons import generator


@pytest.fixture(scope="module")
def clips():
    return {
        "train": list(generator.generate("train", 0, 900)),
        "test": list(generator.generate("test", 0, 300)),
    }


def test_shapes_and_ranges(clips):
    for split, made in clips.items():
        lengths = [len(clip.skeleton) for clip in made]
        assert min(lengths) >= generator.MIN_FRAMES
        assert max(lengths) <= generator.MAX_FRAMES
        assert np.std(lengths) > 20
        assert {clip.performer for clip in made} <= set(generator.PERFORMERS[split])
        assert {clip.camera for clip in made} == {1, 2, 3}
        for clip in made:
            assert clip.skeleton.shape[1:] == (2, 25, 3)
            assert clip.skeleton.dtype == np.float32
            assert np.isfinite(clip.skeleton).all()
            depth = clip.skeleton[..., 2][clip.skeleton.any(axis=-1)]
            assert depth.min() > 0.2
            assert depth.max() < 7.0
    assert not set(generator.PERFORMERS["train"]) & set(generator.PERFORMERS["test"])


def test_second_person_only_where_the_action_has_two(clips):
    for clip in clips["train"]:
        pair = generator.ACTIONS[clip.label].partner is not None
        assert clip.skeleton[:, 1].any() == pair


def test_bones_keep_their_length(clips):
    for clip in clips["train"][:100]:
        thigh = clip.skeleton[:, 0, 12] - clip.skeleton[:, 0, 13]
        length = np.linalg.norm(thigh, axis=-1)
        # Noise of about 2 cm a joint; hip and knee are never lost.
        assert length.std() < 0.05
        assert 0.25 < np.median(length) < 0.6


def test_a_clip_is_a_function_of_seed_split_and_index():
    one = next(generator.generate("train", 130, 131))
    again = list(generator.generate("train", 120, 140))[10]
    np.testing.assert_array_equal(one.skeleton, again.skeleton)
    assert one[1:] == again[1:]
    for other in (
        generator.generate("train", 130, 131, seed=1),
        generator.generate("test", 130, 131),
    ):
        skeleton = next(other).skeleton
        assert skeleton.shape != one.skeleton.shape or (skeleton != one.skeleton).any()


def test_labels_are_balanced(clips):
    counts = np.bincount([clip.label for clip in clips["train"]], minlength=len(generator.LABELS))
    assert counts.max() - counts.min() <= 1


def test_joints_are_lost_for_runs_of_frames_but_never_the_trunk(clips):
    lost = np.concatenate([~clip.skeleton[:, 0].any(axis=-1) for clip in clips["train"]])
    assert 0.001 < lost.mean() < 0.05
    assert not lost[:, [0, 1, 4, 8, 20]].any()


def test_mirrored_actions_move_the_other_side(clips):
    def reach(clip, hand):
        own = normalize_sequence(clip.skeleton)[:, 0, hand]
        return np.ptp(own[own.any(axis=-1)], axis=0).sum()

    for label, hand, other in ((0, 7, 11), (1, 11, 7)):
        waving = [clip for clip in clips["train"] if clip.label == label]
        moved = np.mean([reach(clip, hand) for clip in waving])
        assert moved > 1.5 * np.mean([reach(clip, other) for clip in waving])


def coordinates(made):
    """(clips, features): each clip's normalised coordinates at 16 even times."""
    rows = []
    for clip in made:
        flat = normalize_sequence(select_bodies(clip.skeleton)).reshape(len(clip.skeleton), -1)
        rows.append(flat[np.linspace(0, len(flat) - 1, 16).round().astype(int)].ravel())
    return np.array(rows), np.array([clip.label for clip in made])


def test_raw_coordinates_neither_fail_nor_suffice(clips):
    train, train_labels = coordinates(clips["train"])
    test, test_labels = coordinates(clips["test"])
    distance = (train**2).sum(1) - 2 * test @ train.T
    accuracy = (train_labels[distance.argmin(1)] == test_labels).mean()
    # Chance is 0.06; with 3,000 training clips it is about 0.55.
    assert 0.25 < accuracy < 0.6


def test_unknown_split():
    with pytest.raises(KeyError, match="validation"):
        next(generator.generate("validation", 0, 1))
