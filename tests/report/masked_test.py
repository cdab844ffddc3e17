"""From predicted streams to poses, and what stays hidden."""

import numpy as np
import pytest

from pcm3_jax.data.skeleton import STREAMS, visible_in_stream
from pcm3_jax.report import masked


@pytest.fixture
def poses():
    return np.random.default_rng(0).normal(size=(2, 12, 2, 25, 3)).astype(np.float32)


@pytest.fixture
def visible():
    visible = np.ones((2, 12, 2, 25), bool)
    visible[:, 4:8, 0, 8:12] = False
    return visible


@pytest.mark.parametrize("stream", list(STREAMS))
def test_a_perfect_prediction_gives_the_truth(poses, visible, stream):
    right = np.asarray(STREAMS[stream](poses))
    seen = np.asarray(visible_in_stream(visible, stream))
    found = masked.poses_of_stream(right, seen, poses, stream)
    # Bones and displacements are added up.
    np.testing.assert_allclose(found, poses, atol=1e-5)


@pytest.mark.parametrize("stream", list(STREAMS))
def test_a_wrong_prediction_moves_hidden_joints_alone(poses, visible, stream):
    seen = np.asarray(visible_in_stream(visible, stream))
    wrong = np.where(seen[..., None], STREAMS[stream](poses), 7)
    found = masked.poses_of_stream(wrong, seen, poses, stream)
    off = np.abs(found - poses).max(-1) > 1e-4
    shown = masked._shown_joints(visible, stream)
    assert off[:, 5:8, 0, 8:12].all()
    assert not off[shown].any()


def test_holding_keeps_what_was_seen_last(poses, visible):
    visible[:, :8, 0, 8:12] = False
    visible[:, :2, 0, 8] = True
    held = masked.hold_last_seen(poses, visible)
    np.testing.assert_array_equal(held[:, 2:8, 0, 8], poses[:, [1] * 6, 0, 8])
    # Never seen before: where it will appear.
    np.testing.assert_array_equal(held[:, :8, 0, 9], poses[:, [8] * 8, 0, 9])
    np.testing.assert_array_equal(held[visible], poses[visible])


def test_a_few_checkpoints_with_the_first_and_the_last():
    assert masked._spread([5]) == [5]
    assert masked._spread(list(range(10))) == [0, 3, 6, 9]
